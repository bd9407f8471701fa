//! A verifier in a network namespace of its own, so that the kernel cuts it off: nothing is closed, nothing is refused, packets are gone.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::support::PATIENCE;
use crate::watcher::{Ears, Watcher};

/// The cable between the namespace and this one. The namespace and its end go with the verifier's process, and this end with that.
pub struct Cable {
    near: String,
}

impl Cable {
    /// Starts a verifier that reaches this replica by a cable alone, or says why this machine cannot.
    pub async fn verifier(replica: SocketAddr, trust: &Path) -> Result<(Self, Watcher), String> {
        let id = std::process::id();
        let (near, far) = (format!("pr{id}a"), format!("pr{id}b"));
        // Of the block for tests of networks (RFC 2544).
        let net = |host: u32| Ipv4Addr::from(0xC612_0000 | ((id & 0x3FFF) << 2) | host);
        ran("unshare", &["-n", "true"]).await?;
        ran("ip", &["link", "add", &near, "type", "veth", "peer", "name", &far]).await?;
        let cable = Self { near: near.clone() };
        ran("ip", &["addr", "add", &format!("{}/30", net(1)), "dev", &near]).await?;
        ran("ip", &["link", "set", &near, "up"]).await?;
        let relay = relay(SocketAddr::from((net(1), 0)), replica).await?;
        let mut watcher = Watcher::start_by(&["unshare", "-n"], &Ears::stream(format!("http://{relay}")), trust);
        let pid = watcher.pid().to_string();
        let ours = std::fs::read_link("/proc/self/ns/net").map_err(|e| e.to_string())?;
        let began = Instant::now();
        while std::fs::read_link(format!("/proc/{pid}/ns/net")).is_ok_and(|its| its == ours) {
            assert!(began.elapsed() < PATIENCE, "the verifier leaves our namespace");
            sleep(Duration::from_millis(5)).await;
        }
        ran("ip", &["link", "set", &far, "netns", &pid]).await?;
        let inside = |args: &[&str]| [&["-t", &pid, "-n", "ip"], args].concat().into_iter().map(str::to_owned).collect::<Vec<_>>();
        for args in [inside(&["addr", "add", &format!("{}/30", net(2)), "dev", &far]), inside(&["link", "set", &far, "up"])] {
            ran("nsenter", &args.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        }
        // It runs.
        watcher.status().await;
        Ok((cable, watcher))
    }

    pub async fn cut(&self) {
        ran("ip", &["link", "set", &self.near, "down"]).await.expect("the cable is cut");
    }

    pub async fn join(&self) {
        ran("ip", &["link", "set", &self.near, "up"]).await.expect("the cable is joined");
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        // Gone already if the namespace is.
        _ = std::process::Command::new("ip").args(["link", "del", &self.near]).stderr(std::process::Stdio::null()).status();
    }
}

async fn ran(program: &str, args: &[&str]) -> Result<(), String> {
    let ran = Command::new(program).args(args).output().await.map_err(|e| format!("{program}: {e}"))?;
    if ran.status.success() { Ok(()) } else { Err(format!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&ran.stderr).trim())) }
}

/// From the cable's end to a replica on loopback.
async fn relay(at: SocketAddr, to: SocketAddr) -> Result<SocketAddr, String> {
    let listener = TcpListener::bind(at).await.map_err(|e| format!("{at}: {e}"))?;
    let at = listener.local_addr().map_err(|e| e.to_string())?;
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(to).await else { return };
                _ = (near.set_nodelay(true), far.set_nodelay(true));
                _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    Ok(at)
}
