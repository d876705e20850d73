//! What keeps bindings for the store: the state file today. A store asks no more of it than this.

use super::error::StoreError;
use super::moment::Moment;
use crate::nat::{ContactChange, Nat, StoredBinding};
use std::net::IpAddr;

/// What a row is to become.
#[derive(Clone, Debug)]
pub enum Write {
    /// It is this.
    Put(StoredBinding),
    /// The virtual IP belongs to nobody.
    Remove(IpAddr),
}

/// One way to what is kept. There may be several at once, each in a thread of its own.
pub trait Backend: Send {
    /// Writes rows, all or none. When this returns, they outlive this process.
    ///
    /// # Errors
    /// Nothing was written.
    fn write(&mut self, writes: &[Write], contacts: &[ContactChange]) -> Result<(), StoreError>;

    /// Hands every binding with its contacts to `each`, in the order of the virtual IPs.
    ///
    /// # Errors
    /// Not all could be read.
    fn read(&self, each: &mut dyn FnMut(StoredBinding)) -> Result<(), StoreError>;

    /// Removes contacts that were last called before second `before`.
    fn forget_contacts(&self, before: u32) -> Result<(), StoreError>;

    /// Notes the time for the next process.
    fn note(&self, moment: &Moment) -> Result<(), StoreError>;

    /// Puts on disk what was written, by whichever way.
    ///
    /// # Errors
    /// [`StoreError::NotSynced`]: what was written may be lost, whatever a later sync says.
    fn sync(&self) -> Result<(), StoreError>;

    /// Does what is left to do between two syncs.
    fn tidy(&self) -> Result<(), StoreError>;

    /// Another way to the same.
    fn again(&self) -> Result<Box<dyn Backend>, StoreError>;

    /// Writes all bindings of `nat` anew, on disk, with those that this knows and `nat` does not. Returns how to go on with
    /// that, once all ways to the old are closed.
    fn rewrite(&self, nat: &Nat) -> Result<Reopen, StoreError>;

    /// What it is.
    #[cfg(test)]
    fn as_any(&mut self) -> &mut dyn std::any::Any;
}

/// Goes on with what was written anew; may be tried again.
pub type Reopen = Box<dyn Fn() -> Result<Box<dyn Backend>, StoreError> + Send>;
