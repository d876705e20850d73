//! What was dropped, by reason and address: which peer, which terminal or virtual IP a reason counts most for.
//!
//! Each worker keeps a book of its own, of fixed size (1 MB, of which nothing is touched before a reason counts): six spans
//! of two minutes and one for all that was before. For every reason a span has 32 peers and 32 addresses of this side, in
//! sets of eight. A newcomer to a full set takes the place of the one with the fewest packets by chance, the more rarely
//! the more that one has (randomized admission: Ben Basat et al., "Randomized admission policy for efficient top-k and
//! frequency estimation", 2017): a flood of addresses that come once each raises the fewest by its square root only, and
//! leaves those that come often. What a row counts since it got in is exact, so it is never too much.
//!
//! A flood comes from one peer, or for one address, or both. So what counts for the same end as the packet before it is
//! added up beside the page, a peer apart from the other end, and gets there when another comes, the span is over, or
//! a reader asks for the page.

use super::binding::Realm;
use super::fold::fold;
use super::reason::DropReason;
use crate::time::Time;
use crate::wire::Address;
use siphasher::sip::SipHasher13;
use std::collections::HashMap;
use zerocopy::FromZeros;

/// Seconds of a span.
const SPAN: u32 = 120;
/// Spans that are kept apart: the last is not over.
const SPANS: usize = 6;
/// So far back the window reaches at least (seconds): as far as the spans that are over.
const WINDOW: u32 = SPAN * 5;
const _: () = assert!(SPANS == 6);
/// Sets of a reason, for either side.
const SETS: usize = 4;
/// Rows of a set.
const PER_SET: usize = 8;
const REASONS: usize = DropReason::ALL.len();

/// Which end of a packet an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum End {
    /// A peer.
    Peer,
    /// Of a packet from an inside, the terminal; of one from outside, the virtual IP.
    Own,
}

/// Drops of one reason that have an address in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DropRow {
    /// Why they were dropped.
    pub reason: DropReason,
    /// Where they came from.
    pub from: Realm,
    /// Which end `address` is.
    pub end: End,
    /// What they have in common.
    pub address: Address,
    /// How many, never too many.
    pub packets: u64,
    /// Whether there may have been more, before this address was seen often.
    pub may_be_more: bool,
    /// The other end, if it was the same for all.
    pub other: Option<Address>,
    /// When the last was dropped.
    pub last: Time,
}

/// What was dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// How many, by reason; without those that count none.
    pub reasons: Vec<(DropReason, u64)>,
    /// By address; those with most packets first.
    pub rows: Vec<DropRow>,
    /// When the first of them can have been dropped.
    pub since: Time,
}

/// A row; all zero where there is none.
#[derive(Clone, Copy, FromZeros)]
#[repr(C)]
struct Row {
    address: u128,
    other: u128,
    /// Estimated: what it counts, and what those before it counted.
    packets: u64,
    /// What those before it counted.
    before: u64,
    /// Seconds.
    last: u32,
    /// 0: outside, n + 1: inside n.
    realm: u32,
    /// 1 if the other end was not always the same.
    has_others: u64,
}

/// Of one reason.
#[derive(Clone, Copy, FromZeros)]
#[repr(C, align(64))]
struct Sheet {
    peers: [[Row; PER_SET]; SETS],
    own: [[Row; PER_SET]; SETS],
}

/// A span of time.
#[derive(FromZeros)]
struct Page {
    /// Of which span, counted from the epoch.
    number: u64,
    packets: [u64; REASONS],
    sheets: [Sheet; REASONS],
}

/// Packets one after the other that count for the same row, which is not on the page yet; none where the row counts none.
#[derive(Clone, Copy, FromZeros)]
struct Run {
    row: Row,
    reason: u64,
}

/// What one worker has dropped: the pages of the last minutes, and all before.
pub struct DropBook {
    /// By number, modulo their number.
    pages: Box<[Page]>,
    /// Those before.
    before: Box<[Page]>,
    key: [u64; 2],
    dice: u64,
    begun: Option<Time>,
    /// The page of the present, and from when (inclusive) to when it is (milliseconds).
    place: usize,
    from: u64,
    until: u64,
    peers: Run,
    own: Run,
}

impl DropBook {
    /// Nothing in it.
    pub fn new(secret: &[u8; 16], worker: u64) -> Self {
        let hasher = SipHasher13::new_with_key(secret);
        // Other numbers than those from which a worker's flows have their keys.
        let key = [0, 1].map(|part: u64| hasher.hash(&(!(worker << 1 | part)).to_le_bytes()));
        let pages = |number| <[Page]>::new_box_zeroed_with_elems(number).unwrap_or_default();
        Self {
            pages: pages(SPANS),
            before: pages(1),
            key,
            dice: key[0] ^ key[1] | 1,
            begun: None,
            place: 0,
            from: 0,
            until: 0,
            peers: Run::new_zeroed(),
            own: Run::new_zeroed(),
        }
    }

    /// Writes down a packet from `from` between a peer and an address of this side.
    pub fn write(&mut self, reason: DropReason, from: Realm, ends: Option<(Address, Address)>, now: Time) {
        if !(self.from..self.until).contains(&now.as_millis()) {
            self.begin_span(now);
        }
        if let Some(count) = self.pages.get_mut(self.place).and_then(|page| page.packets.get_mut(reason as usize)) {
            *count += 1;
        }
        let Some((peer, own)) = ends else { return };
        let (realm, now) = (from.number(), now.as_secs());
        if !self.peers.count(reason, realm, (peer, own), now) {
            let run = std::mem::replace(&mut self.peers, Run::begin(reason, realm, (peer, own), now));
            self.put(run, |sheet| &mut sheet.peers);
        }
        if !self.own.count(reason, realm, (own, peer), now) {
            let run = std::mem::replace(&mut self.own, Run::begin(reason, realm, (own, peer), now));
            self.put(run, |sheet| &mut sheet.own);
        }
    }

    /// Brings to the page what is beside it.
    fn flush(&mut self) {
        let [peers, own] = [&mut self.peers, &mut self.own].map(|run| std::mem::replace(run, Run::new_zeroed()));
        self.put(peers, |sheet| &mut sheet.peers);
        self.put(own, |sheet| &mut sheet.own);
    }

    fn put(&mut self, run: Run, rows: fn(&mut Sheet) -> &mut [[Row; PER_SET]; SETS]) {
        let (key, dice) = (self.key, self.roll());
        let page = self.pages.get_mut(self.place).filter(|_| run.row.packets > 0);
        let reason = usize::try_from(run.reason).unwrap_or(REASONS);
        if let Some(sheet) = page.and_then(|page| page.sheets.get_mut(reason)) {
            add(rows(sheet), run.row, key, dice);
        }
    }

    /// Writes down packets of which nobody knows the ends any more.
    pub fn write_lost(&mut self, reason: DropReason, packets: u64) {
        let newest = self.pages.iter_mut().max_by_key(|page| page.number);
        if let Some(count) = newest.and_then(|page| page.packets.get_mut(reason as usize)) {
            *count += packets;
        }
    }

    /// Turns to the page of the present; what was on it before goes to those before.
    #[cold]
    fn begin_span(&mut self, now: Time) {
        self.flush();
        self.begun.get_or_insert(now);
        let number = u64::from(now.as_secs() / SPAN);
        self.place = usize::try_from(number).unwrap_or(0) % SPANS;
        if self.pages.get(self.place).is_some_and(|page| page.number != number) {
            self.turn(self.place, number);
        }
        let millis = u64::from(SPAN) * 1000;
        self.from = now.as_millis() / millis * millis;
        self.until = self.from.saturating_add(millis);
    }

    fn turn(&mut self, place: usize, number: u64) {
        let (key, mut dice) = (self.key, self.roll());
        let (Some(old), Some(before)) = (self.pages.get_mut(place), self.before.first_mut()) else { return };
        let mut sheets = old.sheets.iter_mut().zip(&mut before.sheets);
        for (count, sum) in old.packets.iter_mut().zip(&mut before.packets) {
            let Some((from, to)) = sheets.next() else { return };
            // What no reason has touched stays untouched: it has no memory yet.
            if *count == 0 {
                continue;
            }
            *sum += std::mem::take(count);
            for (rows, to) in [(from.peers, &mut to.peers), (from.own, &mut to.own)] {
                for row in rows.as_flattened().iter().filter(|row| row.packets > 0) {
                    dice = rolled(dice);
                    add(to, *row, key, dice);
                }
            }
            from.zero();
        }
        old.number = number;
    }

    fn roll(&mut self) -> u64 {
        self.dice = rolled(self.dice);
        self.dice
    }
}

/// Of several workers, in one.
#[derive(Default)]
struct Sum {
    reasons: HashMap<DropReason, u64>,
    rows: HashMap<(DropReason, u32, End, u128), Row>,
}

impl Sum {
    fn add(&mut self, page: &Page) {
        for ((reason, count), sheet) in DropReason::ALL.iter().zip(page.packets).zip(&page.sheets) {
            if count == 0 {
                continue;
            }
            *self.reasons.entry(*reason).or_default() += count;
            for (end, rows) in [(End::Peer, &sheet.peers), (End::Own, &sheet.own)] {
                for row in rows.as_flattened().iter().filter(|row| row.packets > 0) {
                    let sum = self.rows.entry((*reason, row.realm, end, row.address));
                    sum.and_modify(|sum| sum.take_in(row)).or_insert(*row);
                }
            }
        }
    }

    fn told(self, since: Time) -> Dropped {
        let rows = self.rows.into_iter().map(|((reason, realm, end, address), row)| DropRow {
            reason,
            from: Realm::of_number(realm).unwrap_or(Realm::Outside),
            end,
            address: Address::from_bits(address),
            packets: row.packets - row.before,
            may_be_more: row.before > 0,
            other: (row.has_others == 0).then(|| Address::from_bits(row.other)),
            last: Time::from_secs(row.last.into()),
        });
        let mut rows: Vec<DropRow> = rows.collect();
        rows.sort_unstable_by_key(|row| (std::cmp::Reverse(row.packets), row.reason, row.end, row.address));
        let mut reasons: Vec<_> = self.reasons.into_iter().collect();
        reasons.sort_unstable_by_key(|(reason, packets)| (std::cmp::Reverse(*packets), *reason));
        Dropped { reasons, rows, since }
    }
}

/// What is in several books, of several workers: of the last ten to twelve minutes, or all.
pub fn sum<'a>(books: impl Iterator<Item = &'a mut DropBook>, since_start: bool, now: Time) -> Dropped {
    let mut sum = Sum::default();
    let span = now.as_secs() / SPAN;
    let oldest = u64::from(span).saturating_sub(SPANS as u64 - 1);
    let mut begun = now;
    for book in books {
        book.flush();
        begun = book.begun.map_or(begun, |first| first.min(begun));
        book.pages.iter().filter(|page| since_start || page.number >= oldest).for_each(|page| sum.add(page));
        if since_start {
            book.before.iter().for_each(|page| sum.add(page));
        }
    }
    let window = Time::from_secs(u64::from((span * SPAN).saturating_sub(WINDOW)));
    sum.told(if since_start { begun } else { window })
}

impl Run {
    fn begin(reason: DropReason, realm: u32, (address, other): (Address, Address), last: u32) -> Self {
        let (address, other) = (address.bits(), other.bits());
        Self { row: Row { address, other, packets: 1, before: 0, last, realm, has_others: 0 }, reason: reason as u64 }
    }

    /// Counts a packet; false if it is of another row.
    fn count(&mut self, reason: DropReason, realm: u32, (address, other): (Address, Address), now: u32) -> bool {
        let row = &mut self.row;
        if row.address != address.bits() || row.realm != realm || self.reason != reason as u64 || row.packets == 0 {
            return false;
        }
        row.packets += 1;
        row.last = now;
        row.has_others |= u64::from(row.other != other.bits());
        true
    }
}

impl Row {
    fn is_of(&self, other: &Row) -> bool {
        self.packets > 0 && self.address == other.address && self.realm == other.realm
    }

    fn take_in(&mut self, more: &Row) {
        self.packets += more.packets;
        self.before += more.before;
        self.last = self.last.max(more.last);
        self.has_others |= more.has_others | u64::from(self.other != more.other);
    }
}

/// Adds a row to the one of its address, or has it take another's place.
fn add(sets: &mut [[Row; PER_SET]; SETS], row: Row, key: [u64; 2], dice: u64) {
    let [first, second] = key;
    let (upper, lower) = Address::from_bits(row.address).halves();
    #[allow(clippy::cast_possible_truncation, reason = "the lowest bits are enough")]
    let place = fold(upper ^ first, lower ^ second | 1) as usize % SETS;
    let Some(set) = sets.get_mut(place) else { return };
    if let Some(same) = set.iter_mut().find(|other| other.is_of(&row)) {
        same.take_in(&row);
        return;
    }
    let Some(least) = set.iter_mut().min_by_key(|other| other.packets) else { return };
    let before = least.packets;
    // As many times in so many, whatever the dice show: the high half of the product.
    let shown = (u128::from(dice) * u128::from(before + row.packets)) >> 64;
    if shown < u128::from(row.packets) {
        *least = Row { packets: before + row.packets, before: before + row.before, ..row };
    }
}

/// The next of a row of numbers (Marsaglia, "Xorshift RNGs", 2003).
fn rolled(mut dice: u64) -> u64 {
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^ dice << 17
}

#[cfg(test)]
mod tests {
    use super::*;

    const REASON: DropReason = DropReason::NotContacted;

    fn address(number: u32) -> Address {
        Address::from_v4(number.to_be_bytes())
    }

    fn book() -> DropBook {
        DropBook::new(&[7; 16], 0)
    }

    fn told(book: &mut DropBook) -> Dropped {
        book.flush();
        let mut sum = Sum::default();
        book.pages.iter().chain(&book.before).for_each(|page| sum.add(page));
        sum.told(Time::default())
    }

    #[test]
    fn each_drop_counts_for_its_peer_and_its_own_end() {
        let mut book = book();
        let (peer, now) = (address(1), Time::from_secs(10_000));
        for own in [7, 7, 8] {
            book.write(REASON, Realm::Outside, Some((peer, address(own))), now);
        }
        book.write(DropReason::NoPool, Realm::inside(3), Some((peer, address(9))), now);
        book.write(DropReason::Malformed, Realm::Outside, None, now);
        book.write_lost(DropReason::CannotRecord, 5);
        let told = told(&mut book);
        let most = &told.rows[0];
        assert_eq!((most.end, most.address, most.packets, most.other), (End::Peer, peer, 3, None));
        let of = |number: u32| told.rows.iter().find(|row| row.address == address(number)).unwrap();
        assert_eq!((of(7).packets, of(7).other, of(7).may_be_more), (2, Some(peer), false));
        assert_eq!((of(9).from, of(9).end, of(9).reason), (Realm::inside(3), End::Own, DropReason::NoPool));
        assert_eq!(told.reasons[0], (DropReason::CannotRecord, 5));
        assert!(told.reasons.contains(&(DropReason::Malformed, 1)));
    }

    #[test]
    fn a_flood_of_made_up_sources_leaves_those_that_come_often() {
        let mut book = book();
        let mut number = 1_u32;
        // One in a thousand is of the same peer; all others come once.
        for n in 0..2_000_000_u32 {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let peer = if n % 1000 == 0 { address(42) } else { address(number | 1 << 31) };
            let now = Time::from_secs(10_000 + u64::from(n / 3000));
            book.write(REASON, Realm::Outside, Some((peer, address(7))), now);
            // What another peer causes now and then, for another reason, is not pushed out either.
            if n % 500_000 == 0 {
                book.write(DropReason::NoPool, Realm::inside(0), Some((address(3), address(4))), now);
            }
        }
        let told = told(&mut book);
        let peers: Vec<&DropRow> = told.rows.iter().filter(|row| row.end == End::Peer).collect();
        let loud = peers.iter().find(|row| row.address == address(42)).expect("the one that comes often");
        assert!(loud.packets > 200, "{loud:?}");
        assert!(peers.iter().all(|row| row.address == address(42) || row.packets < loud.packets / 4), "{peers:?}");
        assert!(peers.iter().any(|row| row.reason == DropReason::NoPool && row.packets == 4));
        let virtual_ip = told.rows.iter().find(|row| row.address == address(7)).unwrap();
        assert_eq!((virtual_ip.packets, virtual_ip.other), (2_000_000, None));
        assert_eq!(told.reasons[0], (REASON, 2_000_000));
    }

    #[test]
    fn what_comes_one_after_the_other_is_told_as_what_comes_in_turns() {
        let now = |n: u32| Time::from_secs(10_000 + u64::from(n));
        // Two reasons, two realms, two peers and two virtual IPs, each for as long as `stretch` says, over several spans.
        let of = |stretch: u32| {
            let mut book = book();
            for n in 0..960 {
                let kind = |halves: u32| n / stretch / halves % 2;
                let reason = if kind(1) == 0 { REASON } else { DropReason::NoBinding };
                let from = if kind(2) == 0 { Realm::Outside } else { Realm::inside(4) };
                book.write(reason, from, Some((address(1 + kind(4)), address(3 + kind(8)))), now(n));
                if n % 100 == 0 {
                    book.write(DropReason::Malformed, from, None, now(n));
                }
            }
            told(&mut book)
        };
        for stretch in [1, 3, 10, 60] {
            let told = of(stretch);
            let packets = |reason: DropReason, end: End| {
                let rows = told.rows.iter().filter(|row| row.reason == reason && row.end == end);
                rows.map(|row| row.packets).collect::<Vec<_>>()
            };
            for reason in [REASON, DropReason::NoBinding] {
                let ([peers, own], all) = ([End::Peer, End::Own].map(|end| packets(reason, end)), 480);
                assert_eq!((peers.len(), own.len()), (4, 4), "{stretch}: {told:?}");
                assert_eq!((peers.iter().sum::<u64>(), own.iter().sum::<u64>()), (all, all), "{stretch}");
            }
            assert!(told.reasons.contains(&(DropReason::Malformed, 10)), "{stretch}");
            let latest = told.rows.iter().map(|row| row.last).max();
            assert_eq!(latest, Some(now(959)), "{stretch}");
            let is_of_both = |row: &DropRow| row.other.is_none() && !row.may_be_more;
            assert!(stretch > 10 || told.rows.iter().all(is_of_both), "{stretch}: {told:?}");
        }
        let mut book = book();
        // Back by a span, as a clock that was set can go, and by an hour.
        for n in [500, 380, 100_000, 96_400] {
            book.write(REASON, Realm::Outside, Some((address(1), address(2))), now(n));
        }
        let told = told(&mut book);
        assert_eq!((told.rows.len(), told.rows[0].packets, told.rows[0].last), (2, 4, now(100_000)));
    }

    #[test]
    fn a_book_has_one_size_and_forgets_nothing_that_it_counted() {
        let mut book = book();
        assert!(size_of::<Page>() * (SPANS + 1) < 1_100_000, "{}", size_of::<Page>());
        for minute in 0..100 {
            let now = Time::from_secs(minute * 60);
            book.write(REASON, Realm::Outside, Some((address(1), address(2))), now);
        }
        let told = told(&mut book);
        assert!(told.rows.iter().all(|row| row.packets == 100 && !row.may_be_more), "{told:?}");
        let last = u64::from(99 * 60 / SPAN);
        let kept = book.pages.iter().filter(|page| page.number + 5 >= last).map(|page| page.packets[REASON as usize]);
        assert_eq!(kept.sum::<u64>(), 12, "six spans of two minutes");
    }
}
