//! Protections that tests can leave out, to show that they would notice.

/// Protections to leave out, so that tests can show that they would notice. All off, always, in production.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// Delete poisons the target without a grace period.
    pub poison_without_grace: bool,
    /// Insert opens the bypass before it sets the target.
    pub bypass_before_target: bool,
    /// No update does a core sync.
    pub no_core_sync: bool,
    /// Loading fixes its sites up by what the slots held before the lock was taken.
    pub stale_fix_up: bool,
    /// Updates patch sites that are not stable.
    pub stable_ignored: bool,
    /// The deferred half of a delete poisons whatever the slot's sites are doing.
    pub poison_without_generation: bool,
    /// A transaction makes its changes one after the other, in the current generation.
    pub transaction_without_generation: bool,
}
