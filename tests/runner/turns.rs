//! How many journeys go on at once. More than half of their time they wait, so four share two cores well, where there are
//! threads for them; those in which something is struck under load are alone.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many share the machine.
const AT_ONCE: usize = 4;

static TURNS: Turns = Turns { state: Mutex::new(State { taken: 0, waiting: 0 }), changed: Condvar::new() };

struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    taken: usize,
    /// Who wants to be alone; nobody else begins before.
    waiting: usize,
}

/// Somebody's turn, until it is dropped.
pub struct Turn(usize);

impl Turn {
    /// One among others.
    pub fn shared() -> Self {
        let free = |state: &mut State| state.taken < AT_ONCE && state.waiting == 0;
        let state = TURNS.changed.wait_while(state(), |state| !free(state));
        state.unwrap_or_else(PoisonError::into_inner).taken += 1;
        Self(1)
    }

    /// The only one.
    pub fn alone() -> Self {
        let mut state = state();
        state.waiting += 1;
        let state = TURNS.changed.wait_while(state, |state| state.taken > 0);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        state.waiting -= 1;
        state.taken = AT_ONCE;
        Self(AT_ONCE)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        state().taken -= self.0;
        TURNS.changed.notify_all();
    }
}

fn state() -> MutexGuard<'static, State> {
    TURNS.state.lock().unwrap_or_else(PoisonError::into_inner)
}
