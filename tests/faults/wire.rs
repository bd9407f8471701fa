//! A network between two processes: delay, rate, silence without an end, one way or both.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// What happens to bytes in one direction.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Way {
    Open,
    /// Each byte comes so much later.
    Late(Duration),
    /// So many bytes a second.
    Slow(u32),
    /// Nothing comes through and nothing is said: what was sent arrives when the way is open again, as TCP would send it again.
    Silent,
    /// Nobody reads: the sender's buffers fill.
    Unread,
}

/// A relay of TCP connections to an address, or to several in turn.
pub struct Wire {
    pub at: SocketAddr,
    targets: Arc<Mutex<Vec<SocketAddr>>>,
    up: watch::Sender<Way>,
    down: watch::Sender<Way>,
    reset: watch::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Wire {
    pub async fn to(target: SocketAddr) -> Self {
        Self::among(vec![target]).await
    }

    /// Each connection goes to the next of them that takes it: a balancer that knows no more of health than this.
    pub async fn among(targets: Vec<SocketAddr>) -> Self {
        let targets = Arc::new(Mutex::new(targets));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let (up, down, reset) = (watch::Sender::new(Way::Open), watch::Sender::new(Way::Open), watch::Sender::new(()));
        let (turn, all, ways) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&targets), (up.clone(), down.clone(), reset.clone()));
        let accepting = tokio::spawn(async move {
            let (up, down, reset) = ways;
            while let Ok((near, _)) = listener.accept().await {
                let (targets, turn) = (Arc::clone(&all), Arc::clone(&turn));
                let (up, down, mut reset) = (up.subscribe(), down.subscribe(), reset.subscribe());
                tokio::spawn(async move {
                    // A dead target refuses: so does its network, by closing.
                    let Some(far) = connect(&targets, &turn).await else { return };
                    _ = near.set_nodelay(true);
                    _ = far.set_nodelay(true);
                    let (from_near, to_near) = near.into_split();
                    let (from_far, to_far) = far.into_split();
                    tokio::select! {
                        () = carry(from_near, to_far, up) => {}
                        () = carry(from_far, to_near, down) => {}
                        _ = reset.changed() => {}
                    }
                });
            }
        });
        Self { at, targets, up, down, reset, accepting }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.at)
    }

    /// Connections of this moment end, and new ones go there.
    pub fn point(&self, target: SocketAddr) {
        *self.targets.lock().unwrap() = vec![target];
        self.reset();
    }

    /// From the one who connected to the target, and back.
    pub fn set(&self, up: Way, down: Way) {
        self.up.send_replace(up);
        self.down.send_replace(down);
    }

    /// Closes every connection of this moment.
    pub fn reset(&self) {
        self.reset.send_replace(());
    }
}

async fn connect(targets: &Mutex<Vec<SocketAddr>>, turn: &AtomicUsize) -> Option<TcpStream> {
    let targets = targets.lock().unwrap().clone();
    let first = turn.fetch_add(1, Ordering::Relaxed);
    for n in 0..targets.len() {
        if let Ok(far) = TcpStream::connect(targets[(first + n) % targets.len()]).await {
            return Some(far);
        }
    }
    None
}

async fn carry(mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let (put, mut take) = mpsc::channel::<(Instant, Vec<u8>)>(4096);
    let mut reading = way.clone();
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            if reading.wait_for(|w| *w != Way::Unread).await.is_err() {
                return;
            }
            let most = if matches!(*reading.borrow(), Way::Slow(_)) { 512 } else { buffer.len() };
            match from.read(&mut buffer[..most]).await {
                Ok(n) if n > 0 && put.send((Instant::now(), buffer[..n].to_vec())).await.is_ok() => {}
                _ => return,
            }
        }
    };
    let write = async move {
        while let Some((at, bytes)) = take.recv().await {
            loop {
                let now = *way.borrow_and_update();
                match now {
                    Way::Open | Way::Unread => break,
                    Way::Silent => {
                        if way.changed().await.is_err() {
                            return;
                        }
                    }
                    Way::Late(by) => {
                        tokio::select! {
                            () = sleep_until(at + by) => break,
                            changed = way.changed() => if changed.is_err() { return },
                        }
                    }
                    Way::Slow(rate) => {
                        sleep(Duration::from_secs_f64(bytes.len() as f64 / f64::from(rate))).await;
                        break;
                    }
                }
            }
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
