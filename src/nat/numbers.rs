//! Numbers of insides, pools and tables, each of a type of its own, and lists that are asked by them.

use std::marker::PhantomData;

/// A place in a [`Numbered`] list.
pub trait Number: Copy + Eq {
    /// The place `number`, counted from zero.
    fn new(number: u16) -> Self;

    /// The place, counted from zero.
    fn get(self) -> u16;
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u16);

        impl $name {
            /// The one in place `number`, counted from zero.
            pub const fn new(number: u16) -> Self {
                Self(number)
            }

            /// The one in `place` of a list that has been checked to be short enough.
            pub fn of_place(place: usize) -> Self {
                Self(u16::try_from(place).unwrap_or(u16::MAX))
            }

            /// Its place, counted from zero.
            pub const fn get(self) -> u16 {
                self.0
            }
        }

        impl Number for $name {
            fn new(number: u16) -> Self {
                Self(number)
            }

            fn get(self) -> u16 {
                self.0
            }
        }
    };
}

number! {
    /// An inside: its place in [`Settings::insides`](crate::nat::Settings::insides).
    InsideNumber
}

number! {
    /// A pool: its place in [`Settings::pools`](crate::nat::Settings::pools).
    PoolNumber
}

number! {
    /// A table.
    TableNumber
}

/// A list of at most 65,536 that is asked by numbers of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered<N, T> {
    list: Vec<T>,
    number: PhantomData<N>,
}

impl<N: Number, T> Numbered<N, T> {
    /// The list, numbered in its order. What comes after the 65,536th has no number and is never found.
    pub fn new(list: Vec<T>) -> Self {
        Self { list, number: PhantomData }
    }

    /// The one with this number.
    pub fn get(&self, number: N) -> Option<&T> {
        self.list.get(usize::from(number.get()))
    }

    /// The number of the first that `is_it`.
    pub fn number(&self, is_it: impl Fn(&T) -> bool) -> Option<N> {
        self.iter().find(|(_, one)| is_it(one)).map(|(number, _)| number)
    }

    /// All numbers, in order.
    pub fn numbers(&self) -> impl Iterator<Item = N> + use<'_, N, T> {
        self.iter().map(|(number, _)| number)
    }

    /// All, in order, with their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (N, &T)> {
        (0..=u16::MAX).map(N::new).zip(&self.list)
    }

    /// All, in order.
    pub fn all(&self) -> &[T] {
        &self.list
    }
}
