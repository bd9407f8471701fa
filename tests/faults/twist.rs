//! What is done to signed messages on their way: repeated, reordered, truncated, bits flipped, junk added, old ones instead.

use std::sync::Mutex;

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, RngCore as _, SeedableRng as _};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mangling {
    None,
    /// Each message three times.
    Repeat,
    /// Three at a time, in any order.
    Shuffle,
    /// Each message is cut short.
    Truncate,
    /// One bit of each message.
    Flip,
    /// Fifty messages of nobody's before each.
    Junk,
    /// Five thousand a second of nobody's beside what is said.
    Flood,
    /// As many of what was said already: each is a good one.
    Echo,
    /// What was recorded, from the beginning, instead of what is said now; answers of then as well.
    Replay,
}

/// What was said, in order.
pub type Recording = Mutex<Vec<Vec<u8>>>;

/// One way of messages.
#[derive(Default)]
pub struct Twist {
    held: Vec<Vec<u8>>,
    replayed: usize,
}

impl Twist {
    /// What comes out for what goes in. What passes unharmed is recorded, up to a length.
    pub fn of(&mut self, how: Mangling, message: Vec<u8>, recording: &Recording) -> Vec<Vec<u8>> {
        match how {
            Mangling::None | Mangling::Flood | Mangling::Echo => {
                record(recording, &message);
                // What was held back comes when it may.
                self.held.push(message);
                std::mem::take(&mut self.held)
            }
            Mangling::Repeat => vec![message; 3],
            Mangling::Shuffle => {
                self.held.push(message);
                if self.held.len() < 3 {
                    return Vec::new();
                }
                self.held.shuffle(&mut StdRng::from_os_rng());
                std::mem::take(&mut self.held)
            }
            Mangling::Truncate => vec![truncated(&message)],
            Mangling::Flip => vec![flipped(message)],
            Mangling::Junk => junk(50).chain([message]).collect(),
            Mangling::Replay => {
                self.replayed += 1;
                recording.lock().unwrap().get(self.replayed - 1).cloned().into_iter().collect()
            }
        }
    }
}

pub fn record(recording: &Recording, message: &[u8]) {
    let mut recording = recording.lock().unwrap();
    if recording.len() < MAX_RECORDED {
        recording.push(message.to_vec());
    }
}

pub fn truncated(message: &[u8]) -> Vec<u8> {
    message[..StdRng::from_os_rng().random_range(0..message.len().max(1))].to_vec()
}

pub fn flipped(mut message: Vec<u8>) -> Vec<u8> {
    let bit = StdRng::from_os_rng().random_range(0..message.len().max(1) * 8);
    message.iter_mut().skip(bit / 8).take(1).for_each(|b| *b ^= 1 << (bit % 8));
    message
}

/// So many messages of nobody's; every other begins as a message does.
pub fn junk(count: usize) -> impl Iterator<Item = Vec<u8>> {
    let mut rng = StdRng::from_os_rng();
    (0..count).map(move |n| {
        let mut junk = vec![0; rng.random_range(1..400)];
        rng.fill_bytes(&mut junk);
        junk[0] = if n % 2 == 0 { 0x83 } else { junk[0] };
        junk
    })
}

const MAX_RECORDED: usize = 10_000;
