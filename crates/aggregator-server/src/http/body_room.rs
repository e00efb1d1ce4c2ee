//! How much of request bodies is in memory at a time, in KiB.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fair::Flow;

/// The room for all bodies together. A flow gets no more of it than it leaves to others, but always room for one body.
pub(super) struct BodyRooms(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    free: usize,
    /// No flow without a body.
    flows: HashMap<Flow, Held>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Held {
    bodies: usize,
    kib: usize,
}

/// The room of a body, until it is dropped.
#[derive(Debug)]
pub(crate) struct BodyRoom {
    state: Arc<Mutex<State>>,
    flow: Flow,
    kib: usize,
}

impl BodyRooms {
    pub(super) fn new(kib: usize) -> Self {
        Self(Arc::new(Mutex::new(State { free: kib, flows: HashMap::new() })))
    }

    /// Room for a body of which nothing has arrived. `None` if there is none now for one as large as it is announced to be;
    /// but what is announced is not reserved, since it may never arrive.
    pub(super) fn begin(&self, flow: Flow, announced_kib: usize) -> Option<BodyRoom> {
        let mut state = lock(&self.0);
        let others = state.flows.get(&flow).map_or(0, |held| held.kib);
        if !flow.may_take(others, announced_kib.max(1), state.free) {
            return None;
        }
        state.free -= 1;
        let held = state.flows.entry(flow).or_default();
        *held = Held { bodies: held.bodies + 1, kib: held.kib + 1 };
        Some(BodyRoom { state: Arc::clone(&self.0), flow, kib: 1 })
    }
}

impl BodyRoom {
    /// Takes more, up to this, and says whether there was so much.
    #[must_use]
    pub(super) fn grow_to(&mut self, kib: usize) -> bool {
        let more = kib.saturating_sub(self.kib);
        if more == 0 {
            return true;
        }
        let state = &mut *lock(&self.state);
        let Some(held) = state.flows.get_mut(&self.flow) else { return false };
        let own = if held.bodies == 1 { 0 } else { held.kib };
        if !self.flow.may_take(own, more, state.free) {
            return false;
        }
        state.free -= more;
        held.kib += more;
        self.kib = kib;
        true
    }
}

impl Drop for BodyRoom {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        state.free += self.kib;
        if let Some(held) = state.flows.get_mut(&self.flow) {
            *held = Held { bodies: held.bodies - 1, kib: held.kib - self.kib };
            if held.bodies == 0 {
                state.flows.remove(&self.flow);
            }
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // Nothing under this lock panics.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_leaves_room_to_others_and_has_room_for_one_body_at_least() {
        let rooms = BodyRooms::new(100);
        let (flood, other) = (Flow::of("flood"), Flow::of("other"));
        let mut first = rooms.begin(flood, 100).unwrap();
        assert!(first.grow_to(80) && !first.grow_to(101));
        assert!(rooms.begin(flood, 1).is_none(), "it has more than is left");
        let mut second = rooms.begin(other, 20).unwrap();
        assert!(second.grow_to(20) && !second.grow_to(21));
        drop((first, second));
        assert_eq!(lock(&rooms.0).free, 100);
        assert!(lock(&rooms.0).flows.is_empty());
        let flooded: Vec<_> = std::iter::from_fn(|| rooms.begin(flood, 0)).collect();
        assert_eq!(flooded.len(), 50);
    }

    #[test]
    fn what_cannot_arrive_is_refused_before_it_does() {
        let rooms = BodyRooms::new(100);
        let mut first = rooms.begin(Flow::EVERYBODY, 60).unwrap();
        let second = rooms.begin(Flow::EVERYBODY, 60).expect("nothing has arrived yet");
        assert!(first.grow_to(60));
        assert!(rooms.begin(Flow::EVERYBODY, 40).is_none());
        assert!(rooms.begin(Flow::EVERYBODY, 39).is_some());
        drop((first, second));
    }
}
