//! From one key list to the next: what it will say, in words what that does, and what speaks against it. Pure.

use procura_verifier::card::AgentCard;
use procura_verifier::ids::{Key, Tenant, UtcMillis};
use procura_verifier::key_list::{KeyListPayload, KeyUse, ListedKey};

use super::LEAD_MS;

/// What the next list is to do.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// New keys, made already, with their uses.
    pub new: Vec<(KeyUse, Key)>,
    /// Uses whose present keys end, one overlap from now.
    pub rotate: Vec<KeyUse>,
    /// Keys that die at once.
    pub dead: Vec<Key>,
    /// How long a new key lives, in milliseconds.
    pub valid_ms: u64,
    /// How long a rotated key signs on beside the new one: the time to sign and publish the list, and some.
    pub overlap_ms: u64,
}

/// Why there is no next list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Nothing of the list has that key.
    #[error("key {0} is not in the key list")]
    NotListed(Key),
    /// Dead already.
    #[error("key {0} is dead already")]
    Dead(Key),
    /// Nothing to do.
    #[error("expected something to rotate or a key to declare dead")]
    Nothing,
    /// Full.
    #[error("the next list would hold {0} keys and dead keys, expected at most {MAX_KEYS} of each")]
    Full(usize),
}

/// The first list of a tenant: every key for `valid_ms` from a minute ago, so that a clock that lags starts too.
pub fn first(tenant: Tenant, keys: &[(KeyUse, Key)], max_ttl_secs: u64, valid_ms: u64, now: UtcMillis) -> KeyListPayload {
    let keys = sorted(keys.iter().map(|(usage, key)| fresh(*usage, *key, valid_ms, now)).collect());
    KeyListPayload { tenant, version: 1, issued: now, max_ttl_secs, keys, dead: Vec::new() }
}

/// The list after `before`.
pub fn next(before: &KeyListPayload, wanted: &Wanted, now: UtcMillis) -> Result<KeyListPayload, ChangeError> {
    if wanted.new.is_empty() && wanted.dead.is_empty() {
        return Err(ChangeError::Nothing);
    }
    let mut dead = before.dead.clone();
    for key in &wanted.dead {
        if dead.contains(key) {
            return Err(ChangeError::Dead(*key));
        }
        if !before.keys.iter().any(|k| k.key == *key) {
            return Err(ChangeError::NotListed(*key));
        }
        dead.push(*key);
    }
    dead.sort_unstable();
    let mut keys: Vec<ListedKey> = before.keys.iter().filter(|k| !is_spent(k, now)).cloned().collect();
    for old in keys.iter_mut().filter(|k| wanted.rotate.contains(&k.usage)) {
        old.until = old.until.min(now.plus(wanted.overlap_ms.saturating_add(lives_on_ms(old.usage, before.max_ttl_secs))));
    }
    for (usage, key) in &wanted.new {
        let mut new = fresh(*usage, *key, wanted.valid_ms, now);
        if *usage == KeyUse::Feed {
            // F3: what a dead key signed is signed again by one whose window holds it.
            let died = before.keys.iter().filter(|k| k.usage == KeyUse::Feed && dead.contains(&k.key));
            new.from = died.map(|k| k.from).chain([new.from]).min().unwrap_or(new.from);
        }
        keys.push(new);
    }
    if keys.len().max(dead.len()) > MAX_KEYS {
        return Err(ChangeError::Full(keys.len().max(dead.len())));
    }
    Ok(KeyListPayload { version: before.version + 1, issued: now, keys: sorted(keys), dead, ..before.clone() })
}

/// What a list does, one sentence a line, for whoever is to sign it.
pub fn summary(before: Option<&KeyListPayload>, next: &KeyListPayload) -> Vec<String> {
    let mut said = match before {
        None => vec![format!("First key list of tenant `{}`.", next.tenant)],
        Some(before) => vec![format!("Key list version {} of tenant `{}`, after version {}.", next.version, next.tenant, before.version)],
    };
    if let Some(before) = before.filter(|b| b.tenant != next.tenant) {
        said.push(format!("WARNING: the list before it is of tenant `{}`.", before.tenant));
    }
    let find = |list: Option<&KeyListPayload>, key: &Key| list.and_then(|l| l.keys.iter().find(|k| k.key == *key).cloned());
    for k in &next.keys {
        let (name, dead) = (format!("{} key {}", k.usage.name(), k.key), next.dead.contains(&k.key));
        match find(before, &k.key) {
            _ if dead => {}
            None => said.push(format!("Starts: {name}, from {} to {}.", k.from, k.until)),
            Some(old) if old.usage != k.usage => said.push(format!("WARNING: {name} was a {} key.", old.usage.name())),
            Some(old) if (old.from, old.until) != (k.from, k.until) => {
                said.push(format!("Ends:   {name} now holds from {} to {} (it was {} to {}).", k.from, k.until, old.from, old.until));
            }
            Some(_) => {}
        }
    }
    let known_dead = before.map_or(&[][..], |b| &b.dead);
    for key in next.dead.iter().filter(|k| !known_dead.contains(k)) {
        let usage = find(Some(next), key).or_else(|| find(before, key)).map(|k| k.usage);
        said.push(format!("Dies:   {} key {key}, at once: {}.", usage.map_or("unlisted", KeyUse::name), usage.map_or("nothing rests on it", death)));
    }
    for key in known_dead.iter().filter(|k| !next.dead.contains(k)) {
        said.push(format!("WARNING: key {key} was dead and would not be any more."));
    }
    for k in before.iter().flat_map(|b| &b.keys).filter(|k| find(Some(next), &k.key).is_none()) {
        said.push(format!("Leaves: {} key {}, which ended at {}.", k.usage.name(), k.key, k.until));
    }
    match before {
        Some(b) if b.max_ttl_secs != next.max_ttl_secs => {
            said.push(format!("Longest life of a token: {} s (it was {} s; longer tokens are refused from now on).", next.max_ttl_secs, b.max_ttl_secs));
        }
        _ => said.push(format!("Longest life of a token: {} s.", next.max_ttl_secs)),
    }
    said
}

/// Something that speaks against publishing a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// By which `--force` names it.
    pub name: String,
    /// What would happen.
    pub sentence: String,
    /// False where the authority could not go on at all.
    pub can_be_forced: bool,
}

/// What speaks against `next` following `now_held` at this moment, at an authority that has these keys at hand.
pub fn problems(now_held: &KeyListPayload, next: &KeyListPayload, now: UtcMillis, at_hand: impl Fn(KeyUse, &Key) -> bool) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut say = |name: String, can_be_forced: bool, sentence: String| found.push(Problem { name, sentence, can_be_forced });
    let is_dead = |list: &KeyListPayload, key: &Key| list.dead.contains(key);
    for usage in KeyUse::ALL {
        let name = usage.name();
        let signs = |k: &&ListedKey| k.usage == usage && !is_dead(next, &k.key) && at_hand(usage, &k.key);
        if !next.keys.iter().filter(signs).any(|k| k.from <= now && now < k.until) {
            // Without one of these three nothing can be taken back any more, and nobody could be told.
            let can_be_forced = !matches!(usage, KeyUse::Feed | KeyUse::Event | KeyUse::Log);
            say(format!("no-living-{name}"), can_be_forced, format!("no {name} key would be alive now with its private half in the key folder"));
            continue;
        }
        let lives_on = lives_on_ms(usage, now_held.max_ttl_secs);
        for old in now_held.keys.iter().filter(|k| k.usage == usage && !is_dead(now_held, &k.key) && k.until > now) {
            if is_dead(next, &old.key) {
                continue;
            }
            let until = next.keys.iter().find(|k| k.key == old.key && k.usage == usage && k.from <= old.from).map_or(UtcMillis(0), |k| k.until);
            if until < old.until && until < now.plus(MIN_OVERLAP_MS + lives_on) {
                let sentence = format!("{name} key {} would end at {until}, too soon for verifiers to have the list and for what it signed to end", old.key);
                say(format!("short-overlap-{name}"), true, sentence);
            }
        }
    }
    // A feed is read from its first message by whoever starts anew: each message needs a key that vouches for it.
    for old in now_held.keys.iter().filter(|k| k.usage == KeyUse::Feed) {
        let upto = old.until.min(now);
        let vouches = |k: &ListedKey| k.usage == KeyUse::Feed && !is_dead(next, &k.key) && at_hand(k.usage, &k.key) && k.from <= old.from && upto <= k.until;
        if old.from <= now && !next.keys.iter().any(vouches) {
            say(
                "uncovered-feed".to_owned(),
                false,
                format!("no feed key would hold from {} to {upto}, so nothing could vouch for the messages of that time", old.from),
            );
        }
    }
    for key in now_held.dead.iter().filter(|k| !is_dead(next, k)) {
        say("revived".to_owned(), false, format!("key {key} is dead, and would not be any more"));
    }
    if next.max_ttl_secs < now_held.max_ttl_secs {
        say("shorter-ttl".to_owned(), true, format!("tokens that live longer than {} s would be refused at once", next.max_ttl_secs));
    }
    found
}

/// What stops working when a key of that use dies.
const fn death(usage: KeyUse) -> &'static str {
    match usage {
        KeyUse::Root => "every token minted under it is refused as soon as a verifier has this list, and agents mint anew",
        KeyUse::Feed => "verifiers drop what freshness it vouched for, and pull once",
        KeyUse::Event => "leaves before this list stand, none after it",
        KeyUse::Log => "checkpoints signed by it alone open no more under this list",
        KeyUse::Card => "every agent card under it is refused, and with it the links that carry one; agents fetch new cards",
        KeyUse::Approval => "approvals under it are refused",
    }
}

/// How long something signed at the last moment goes on resting on the key's window.
const fn lives_on_ms(usage: KeyUse, max_ttl_secs: u64) -> u64 {
    match usage {
        KeyUse::Root => max_ttl_secs.saturating_mul(1000),
        KeyUse::Card | KeyUse::Approval => AgentCard::MAX_TTL_SECS * 1000,
        KeyUse::Feed | KeyUse::Event | KeyUse::Log => 0,
    }
}

/// Nothing rests on it any more. A feed key stays: whoever starts anew reads the feed from its start.
fn is_spent(k: &ListedKey, now: UtcMillis) -> bool {
    k.usage != KeyUse::Feed && k.until.plus(KEEP_ENDED_MS) < now
}

fn fresh(usage: KeyUse, key: Key, valid_ms: u64, now: UtcMillis) -> ListedKey {
    ListedKey { usage, key, from: UtcMillis(now.0.saturating_sub(60_000)), until: now.plus(valid_ms) }
}

fn sorted(mut keys: Vec<ListedKey>) -> Vec<ListedKey> {
    keys.sort_unstable_by_key(|k| (k.usage, k.key));
    keys
}

/// A verifier hears of a list within a heartbeat and pulls it; a minute is for those that are cut off for a moment.
const MIN_OVERLAP_MS: u64 = 60_000 + LEAD_MS;
const KEEP_ENDED_MS: u64 = 24 * 3_600_000;
/// As many as a list may hold.
const MAX_KEYS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UtcMillis = UtcMillis(1_900_000_000_000);
    const DAY: u64 = 24 * 3_600_000;

    fn key(n: u8) -> Key {
        Key::from_bytes([n; 32])
    }
    fn held() -> KeyListPayload {
        let keys: Vec<_> = (1..).zip(KeyUse::ALL).map(|(n, usage)| (usage, key(n))).collect();
        first("acme".parse().unwrap(), &keys, 3600, 365 * DAY, UtcMillis(NOW.0 - 100 * DAY))
    }
    fn of(list: &KeyListPayload, key: Key) -> ListedKey {
        list.keys.iter().find(|k| k.key == key).unwrap().clone()
    }
    fn names(next: &KeyListPayload, at: UtcMillis) -> Vec<String> {
        problems(&held(), next, at, |_, _| true).into_iter().map(|p| p.name).collect()
    }
    fn rotate(usage: KeyUse) -> Wanted {
        Wanted { new: vec![(usage, key(100))], rotate: vec![usage], dead: vec![], valid_ms: 365 * DAY, overlap_ms: 7 * DAY }
    }
    fn kill(usage: KeyUse, dead: Key) -> Wanted {
        Wanted { rotate: vec![], dead: vec![dead], ..rotate(usage) }
    }

    #[test]
    fn a_rotation_of_each_use_passes_and_ends_the_old_key_after_what_it_signed() {
        for (n, usage) in (1..).zip(KeyUse::ALL) {
            let next = next(&held(), &rotate(usage), NOW).unwrap();
            assert_eq!((next.version, names(&next, NOW)), (2, vec![]), "{usage:?}");
            let old = of(&next, key(n));
            let lives_on = match usage {
                KeyUse::Root => 3_600_000,
                KeyUse::Card | KeyUse::Approval => DAY,
                _ => 0,
            };
            assert_eq!((old.from, old.until), (of(&held(), key(n)).from, NOW.plus(7 * DAY + lives_on)));
            assert_eq!((of(&next, key(100)).from, of(&next, key(100)).until), (UtcMillis(NOW.0 - 60_000), NOW.plus(365 * DAY)));
            let said = summary(Some(&held()), &next).join("\n");
            assert!(
                said.contains(&format!("Starts: {} key {}", usage.name(), key(100))) && said.contains(&format!("Ends:   {} key {}", usage.name(), key(n))),
                "{said}"
            );
            // Signed by the anchors a week later: the old key ends before verifiers could have the list.
            assert_eq!(names(&next, NOW.plus(7 * DAY + lives_on - 1_000)), [format!("short-overlap-{}", usage.name())]);
        }
    }

    #[test]
    fn a_death_of_each_use_passes_beside_a_living_key_and_is_refused_alone() {
        for (n, usage) in (1..).zip(KeyUse::ALL) {
            let good = next(&held(), &kill(usage, key(n)), NOW).unwrap();
            assert_eq!(names(&good, NOW), Vec::<String>::new(), "{usage:?}");
            assert!(summary(Some(&held()), &good).join("\n").contains(&format!("Dies:   {} key {}, at once: {}", usage.name(), key(n), death(usage))));
            let alone = next(&held(), &Wanted { new: vec![], ..kill(usage, key(n)) }, NOW).unwrap();
            let found = problems(&held(), &alone, NOW, |_, _| true);
            let forcible = !matches!(usage, KeyUse::Feed | KeyUse::Event | KeyUse::Log);
            assert_eq!((found[0].name.as_str(), found[0].can_be_forced), (format!("no-living-{}", usage.name()).as_str(), forcible));
            let elsewhere = problems(&held(), &good, NOW, |_, k| *k != key(100));
            assert_eq!(elsewhere[0].name, format!("no-living-{}", usage.name()), "its private half is not here");
        }
    }

    #[test]
    fn a_feed_key_that_follows_a_dead_one_holds_all_of_its_time() {
        let good = next(&held(), &kill(KeyUse::Feed, key(2)), NOW).unwrap();
        assert_eq!(of(&good, key(100)).from, of(&held(), key(2)).from);
        let mut short = good;
        short.keys.iter_mut().find(|k| k.key == key(100)).unwrap().from = UtcMillis(NOW.0 - 1000);
        assert_eq!(names(&short, NOW), ["uncovered-feed"]);
    }

    #[test]
    fn the_dead_stay_dead_and_what_is_left_out_is_noticed() {
        let mut before = held();
        before.dead = vec![key(77)];
        let plain = next(&before, &rotate(KeyUse::Card), NOW).unwrap();
        assert_eq!(plain.dead, [key(77)]);
        let revived = KeyListPayload { dead: vec![], ..plain.clone() };
        assert_eq!(problems(&before, &revived, NOW, |_, _| true).iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["revived"]);
        let mut dropped = plain.clone();
        dropped.keys.retain(|k| k.key != key(5));
        assert_eq!(names(&dropped, NOW), ["short-overlap-card"]);
        assert_eq!(names(&KeyListPayload { max_ttl_secs: 60, ..plain }, NOW), ["shorter-ttl"]);
        assert_eq!(next(&before, &kill(KeyUse::Card, key(77)), NOW), Err(ChangeError::Dead(key(77))));
        assert_eq!(next(&before, &kill(KeyUse::Card, key(78)), NOW), Err(ChangeError::NotListed(key(78))));
        assert_eq!(next(&before, &Wanted::default(), NOW), Err(ChangeError::Nothing));
    }

    #[test]
    fn ended_keys_leave_the_list_but_those_of_the_feed() {
        let late = NOW.plus(300 * DAY);
        let after = next(&held(), &rotate(KeyUse::Feed), late).unwrap();
        assert_eq!(after.keys.iter().map(|k| k.usage).collect::<Vec<_>>(), [KeyUse::Feed, KeyUse::Feed]);
    }
}
