//! Those who wait for something, in the order of their turns.

use std::collections::{HashMap, VecDeque};

use tokio::sync::oneshot;

use super::Flow;

/// Requests that wait until `Grant` is handed to them. Each flow has a line of its own, and the lines take turns.
#[derive(Debug)]
pub(crate) struct FairQueue<Need, Grant> {
    capacity: usize,
    /// How many wait, with those that have given up and were not found yet.
    waiting: usize,
    /// No line is empty.
    lines: HashMap<Flow, VecDeque<Waiter<Need, Grant>>>,
    /// The flows that have a line. The next turn is that of the first one.
    turns: VecDeque<Flow>,
}

/// One that waits. It gives up by dropping its receiver.
#[derive(Debug)]
pub(crate) struct Waiter<Need, Grant> {
    pub(crate) need: Need,
    pub(crate) grant: oneshot::Sender<Grant>,
}

impl<Need, Grant> FairQueue<Need, Grant> {
    /// For at most so many at a time.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { capacity, waiting: 0, lines: HashMap::new(), turns: VecDeque::new() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// How many wait, with those that have given up and were not found yet.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Waits in the line of its flow; `None` if too many wait. Afterwards the caller looks who is [`next`](Self::next): those
    /// before it may have given up.
    pub(crate) fn join(&mut self, flow: Flow, need: Need) -> Option<oneshot::Receiver<Grant>> {
        if !self.has_place(flow) {
            self.forget_the_gone();
            if !self.has_place(flow) {
                return None;
            }
        }
        let (grant, granted) = oneshot::channel();
        let line = self.lines.entry(flow).or_default();
        if line.is_empty() {
            self.turns.push_back(flow);
        }
        line.push_back(Waiter { need, grant });
        self.waiting += 1;
        Some(granted)
    }

    fn has_place(&self, flow: Flow) -> bool {
        let own = self.lines.get(&flow).map_or(0, VecDeque::len);
        flow.may_take(own, 1, self.capacity - self.waiting)
    }

    /// Takes the one whose turn it is out, if what it needs is there. Nobody passes it by: one that needs much would wait
    /// for ever.
    pub(crate) fn next(&mut self, fits: impl Fn(&Need) -> bool) -> Option<Waiter<Need, Grant>> {
        loop {
            let flow = *self.turns.front()?;
            let line = self.lines.get_mut(&flow)?;
            let is_gone = line.front()?.grant.is_closed();
            if !is_gone && !fits(&line.front()?.need) {
                return None;
            }
            let waiter = line.pop_front()?;
            self.waiting -= 1;
            if line.is_empty() {
                self.lines.remove(&flow);
                self.turns.pop_front();
            } else if !is_gone {
                self.turns.rotate_left(1);
            }
            if !is_gone {
                return Some(waiter);
            }
        }
    }

    /// Sends all away.
    pub(crate) fn clear(&mut self) {
        *self = Self::new(self.capacity);
    }

    fn forget_the_gone(&mut self) {
        for line in self.lines.values_mut() {
            line.retain(|waiter| !waiter.grant.is_closed());
        }
        self.lines.retain(|_, line| !line.is_empty());
        self.turns.retain(|flow| self.lines.contains_key(flow));
        self.waiting = self.lines.values().map(VecDeque::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Queue = FairQueue<u32, ()>;

    fn needs(queue: &mut Queue) -> Vec<u32> {
        std::iter::from_fn(|| queue.next(|_| true)).map(|waiter| waiter.need).collect()
    }

    #[test]
    fn flows_take_turns_and_a_flow_keeps_its_order() {
        let mut queue = Queue::new(100);
        let (a, b, c) = (Flow::of("a"), Flow::of("b"), Flow::of("c"));
        let joined = [(a, 1), (a, 2), (a, 3), (a, 4), (b, 11), (b, 12), (c, 21)];
        let _waiting: Vec<_> = joined.map(|(flow, need)| queue.join(flow, need).unwrap()).into();
        assert_eq!(needs(&mut queue), [1, 11, 21, 2, 12, 3, 4]);
        assert!(queue.is_empty() && queue.lines.is_empty() && queue.waiting == 0);
    }

    #[test]
    fn who_does_not_fit_is_not_passed_by() {
        let mut queue = Queue::new(100);
        let _waiting = [queue.join(Flow::of("a"), 5), queue.join(Flow::of("b"), 1)];
        assert!(queue.next(|need| *need <= 4).is_none());
        assert_eq!(queue.next(|need| *need <= 5).unwrap().need, 5);
    }

    #[test]
    fn who_has_given_up_costs_no_turn_and_no_place() {
        let mut queue = Queue::new(4);
        let (a, b) = (Flow::of("a"), Flow::of("b"));
        drop([queue.join(a, 1), queue.join(a, 2)]);
        let _waiting = [queue.join(b, 10).unwrap(), queue.join(a, 3).unwrap()];
        assert_eq!(queue.waiting, 2, "room was found by forgetting");
        drop(queue.join(Flow::EVERYBODY, 20));
        assert_eq!(needs(&mut queue), [10, 3]);
        assert!(queue.is_empty() && queue.lines.is_empty() && queue.waiting == 0);
    }

    #[test]
    fn a_flood_leaves_places_to_others() {
        let mut queue = Queue::new(8);
        let (flood, other) = (Flow::of("flood"), Flow::of("other"));
        let taken: Vec<_> = (0..8).map_while(|need| queue.join(flood, need)).collect();
        assert_eq!(taken.len(), 4);
        let _other = queue.join(other, 0).unwrap();
        assert!(queue.join(flood, 9).is_none());
    }
}
