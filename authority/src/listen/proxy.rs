//! Who the client is: the connection's other end, or whoever a trusted proxy says it speaks for.

use std::net::{IpAddr, Ipv6Addr};

use axum::http::HeaderMap;

use crate::config::{self, ForwardedBy, Network};

/// Whose word is taken, and in which header. Nobody's by default.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    trusted: Vec<Network>,
    header: ForwardedBy,
}

impl From<Option<&config::Proxies>> for Proxies {
    fn from(configured: Option<&config::Proxies>) -> Self {
        configured.map_or_else(Self::default, |p| Self { trusted: p.trusted.clone(), header: p.header })
    }
}

impl Proxies {
    /// True if this address is a trusted proxy's.
    pub fn trusts(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|Network(net)| net.contains(&address))
    }

    /// The client of a request that came from `peer`: read from the nearest proxy outward, the first that is not trusted.
    ///
    /// What stands farther out is a stranger's word: each proxy appends whom it heard, so only what trusted ones appended counts.
    /// Something that is no address ends the reading where it stands.
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        if !self.trusts(client) {
            return client;
        }
        let lines: Vec<_> = headers.get_all(self.header.name()).iter().collect();
        // From the last: of several lines the last was written last.
        let hops = lines.iter().rev().flat_map(|line| line.as_bytes().rsplit(|b| *b == b','));
        for hop in hops.take(MAX_HOPS) {
            let said = std::str::from_utf8(hop).ok().and_then(|hop| match self.header {
                ForwardedBy::XForwardedFor => address(hop.trim()),
                ForwardedBy::Forwarded => forwarded_for(hop),
            });
            let Some(said) = said else { break };
            client = said.to_canonical();
            if !self.trusts(client) {
                break;
            }
        }
        client
    }
}

/// The `for` of one element (RFC 7239 §4), once.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    let mut said = element.split(';').filter_map(|pair| pair.trim().split_once('=')).filter(|(name, _)| name.eq_ignore_ascii_case("for"));
    let (_, node) = said.next()?;
    if said.next().is_some() { None } else { address(node.trim_matches('"')) }
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    bare.unwrap_or(text).parse().ok().or_else(|| text.parse().ok().map(|socket: std::net::SocketAddr| socket.ip()))
}

/// What counts as one client: an IPv4 address, or the /64 that one subscriber of IPv6 has to himself.
pub fn household(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// More proxies than any site has.
const MAX_HOPS: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(header: ForwardedBy) -> Proxies {
        Proxies { trusted: ["10.0.0.0/8", "fd00::/8"].map(|n| Network(n.parse().unwrap())).to_vec(), header }
    }

    fn client(header: ForwardedBy, peer: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        proxies(header).client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn only_trusted_proxies_name_the_client_and_only_the_nearest_word_counts() {
        let x = |peer, lines: &[&str]| client(ForwardedBy::XForwardedFor, peer, &lines.iter().map(|l| ("x-forwarded-for", *l)).collect::<Vec<_>>());
        assert_eq!(x("10.0.0.1", &["203.0.113.7"]), "203.0.113.7");
        assert_eq!(x("203.0.113.9", &["203.0.113.7"]), "203.0.113.9", "a stranger's word");
        assert_eq!(x("10.0.0.1", &["1.2.3.4, 203.0.113.7"]), "203.0.113.7", "what the client wrote itself");
        assert_eq!(x("10.0.0.1", &["1.2.3.4, 203.0.113.7, 10.0.0.2"]), "203.0.113.7", "two proxies");
        assert_eq!(x("10.0.0.1", &["1.2.3.4", "203.0.113.7"]), "203.0.113.7", "two lines");
        assert_eq!(x("10.0.0.1", &["203.0.113.7, unknown"]), "10.0.0.1", "nothing behind what is no address");
        assert_eq!(x("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(x("10.0.0.1", &["203.0.113.7:4711"]), "203.0.113.7");
        assert_eq!(x("fd00::1", &["[2001:db8::7]:4711"]), "2001:db8::7");
        assert_eq!(x("::ffff:10.0.0.1", &["::ffff:203.0.113.7"]), "203.0.113.7", "IPv4 in IPv6");
        assert_eq!(x("10.0.0.1", &[&["10.0.0.2"; 1000].join(",")]), "10.0.0.2");
    }

    #[test]
    fn the_header_that_is_not_named_says_nothing() {
        let both = [("x-forwarded-for", "203.0.113.7"), ("forwarded", "for=198.51.100.9;proto=https")];
        assert_eq!(client(ForwardedBy::XForwardedFor, "10.0.0.1", &both), "203.0.113.7");
        assert_eq!(client(ForwardedBy::Forwarded, "10.0.0.1", &both), "198.51.100.9");
        for (said, expected) in [
            ("for=1.2.3.4, For=\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("for=1.2.3.4;for=203.0.113.7", "10.0.0.1"),
            ("for=_hidden", "10.0.0.1"),
            ("for=unknown", "10.0.0.1"),
            ("proto=https", "10.0.0.1"),
        ] {
            assert_eq!(client(ForwardedBy::Forwarded, "10.0.0.1", &[("forwarded", said)]), expected, "{said}");
        }
    }
}
