//! What the authority works with, part by part: what is whole, what works and promises less than it could, what fails.

use procura_verifier::key_list::KeyUse;
use serde_json::{Map, Value, json};

use super::Context;
use crate::store::shared::{Shared, Standby};

/// How a part is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Condition {
    /// As it should be.
    Ok,
    /// The promises hold without it, or still hold: somebody should look.
    Degraded,
    /// Nothing can be taken back, or nobody hears of it.
    Failed,
}

impl Condition {
    /// As `readyz` says it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Failed => "failed",
        }
    }
}

/// One part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    /// Its name, one of a closed set.
    pub name: &'static str,
    /// How it is.
    pub condition: Condition,
    /// What is wrong and what to do, as one sentence. Strangers may read it.
    pub says: Option<String>,
    /// Its figures.
    pub facts: Map<String, Value>,
}

impl Part {
    /// A part with figures; `wrong` is its condition and sentence where it is not whole.
    pub fn new(name: &'static str, wrong: Option<(Condition, String)>, facts: Value) -> Self {
        let (condition, says) = wrong.map_or((Condition::Ok, None), |(condition, says)| (condition, Some(says)));
        Self { name, condition, says, facts: if let Value::Object(facts) = facts { facts } else { Map::new() } }
    }

    /// As `readyz` shows it.
    pub fn shown(&self) -> Value {
        let mut shown = self.facts.clone();
        shown.insert("state".to_owned(), self.condition.word().into());
        if let Some(says) = &self.says {
            shown.insert("says".to_owned(), says.as_str().into());
        }
        Value::Object(shown)
    }
}

/// Everything that is known without asking anybody: standby, Redis, the newest heartbeat, and each key's window.
pub fn parts(ctx: &Context) -> Vec<Part> {
    let mut parts = Vec::new();
    match ctx.store.shared().map(Shared::standby) {
        None => {}
        Some(Standby::Synchronous(n)) => parts.push(Part::new("standby", None, json!({ "synchronous": n }))),
        Some(Standby::None) => {
            let says = "no synchronous standby: a failover of the database may lose what was answered".to_owned();
            parts.push(Part::new("standby", Some((Condition::Degraded, says)), json!({ "synchronous": 0 })));
        }
    }
    if let Some(redis) = ctx.feed.redis() {
        let says = || "no connection to Redis: messages go by streams alone".to_owned();
        let wrong = (!redis.connected).then(|| (Condition::Degraded, says()));
        parts.push(Part::new("redis", wrong, json!({ "subscribers": redis.listeners, "published": redis.published, "dropped": redis.dropped })));
    }
    // Why there was none is in the log: it may name machines.
    let wrong = ctx.feed.trouble().map(|_| (Condition::Failed, "no heartbeat can be signed: verifiers turn stale and deny".to_owned()));
    parts.push(Part::new("heartbeat", wrong, json!({ "last_age_ms": ctx.feed.beat_age_us(ctx.clock.boot()).map(|us| us / 1000) })));
    let now = ctx.now();
    for usage in KeyUse::ALL {
        let until = ctx.signs_until(usage, now);
        let wrong = ctx.key_warning(usage, now).map(|says| (if until.is_none() && usage.takes_back() { Condition::Failed } else { Condition::Degraded }, says));
        let left_secs = until.map(|until| until.0.saturating_sub(now.0) / 1000);
        parts.push(Part::new(key_part(usage), wrong, json!({ "until_ms": until, "left_secs": left_secs })));
    }
    parts
}

/// The part that a use of keys is.
pub const fn key_part(usage: KeyUse) -> &'static str {
    match usage {
        KeyUse::Root => "root_key",
        KeyUse::Feed => "feed_key",
        KeyUse::Event => "event_key",
        KeyUse::Log => "log_key",
        KeyUse::Card => "card_key",
        KeyUse::Approval => "approval_key",
    }
}

/// What rests on a use of keys.
pub(super) trait Rests {
    /// True if without it nothing can be taken back.
    fn takes_back(self) -> bool;
    /// What ends with the last key of it.
    fn without_it(self) -> &'static str;
}

impl Rests for KeyUse {
    fn takes_back(self) -> bool {
        matches!(self, Self::Event | Self::Feed | Self::Log)
    }

    fn without_it(self) -> &'static str {
        match self {
            Self::Event | Self::Feed | Self::Log => {
                "what would live longer is refused already, and from then on nothing is granted, minted or taken back and every tool denies"
            }
            Self::Root => "nothing is minted that would live longer",
            Self::Card => "no agent card is made that would live longer",
            Self::Approval => "no approval is made that would live longer",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fixture::*;
    use super::*;
    use crate::feed::bus::Transport;
    use crate::feed::redis::RedisBusStatus;

    fn find(app: &App, name: &str) -> Part {
        parts(&app.ctx).into_iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no part {name}"))
    }

    #[tokio::test]
    async fn keys_say_early_that_they_end_and_which_of_them_stop_everything() {
        const DAY: u64 = 24 * 3_600_000;
        let app = app().await;
        assert!(parts(&app.ctx).iter().all(|p| p.condition == Condition::Ok), "{:?}", parts(&app.ctx));
        assert_eq!(find(&app, "event_key").facts.get("left_secs").and_then(Value::as_u64), Some(365 * 86_400));
        app.clock.advance_ms(336 * DAY);
        for (name, says) in
            [("event_key", "every tool denies"), ("feed_key", "taken back"), ("log_key", "taken back"), ("root_key", "minted"), ("card_key", "card")]
        {
            let part = find(&app, name);
            assert_eq!(part.condition, Condition::Degraded, "{name}");
            assert!(part.says.as_ref().is_some_and(|s| s.contains(says) && s.contains("publish a key list")), "{part:?}");
        }
        assert!(!app.ctx.key_warnings().urgent);
        app.clock.advance_ms(23 * DAY);
        assert!(app.ctx.key_warnings().urgent && !app.ctx.key_warnings().cannot_take_back, "a week before");
        app.clock.advance_ms(7 * DAY);
        assert_eq!((find(&app, "event_key").condition, find(&app, "root_key").condition), (Condition::Failed, Condition::Degraded));
    }

    #[tokio::test]
    async fn the_age_of_the_last_heartbeat_is_that_of_the_last_one_signed() {
        let app = app().await;
        assert_eq!(find(&app, "heartbeat").facts.get("last_age_ms"), Some(&Value::Null), "none was asked for");
        app.ctx.feed.beat().await.unwrap();
        app.clock.advance_ms(1_234);
        assert_eq!(find(&app, "heartbeat").facts.get("last_age_ms").and_then(Value::as_u64), Some(1_234));
    }

    struct Down;
    impl Transport for Down {
        fn publish(&self, _: Arc<procura_verifier::feed::message::SignedMessage>) {}
        fn has_listeners(&self) -> bool {
            false
        }
        fn redis(&self) -> Option<RedisBusStatus> {
            Some(RedisBusStatus { connected: false, dropped: 7, last_error: Some("refused by redis.internal".into()), ..RedisBusStatus::default() })
        }
    }

    #[tokio::test]
    async fn without_redis_streams_carry_and_strangers_learn_no_names() {
        let app = app().await;
        assert!(!parts(&app.ctx).iter().any(|p| p.name == "redis"), "not configured is not a part");
        app.ctx.feed.carry_beside(Arc::new(Down));
        let part = find(&app, "redis");
        assert_eq!((part.condition, part.facts.get("dropped").and_then(Value::as_u64)), (Condition::Degraded, Some(7)));
        assert!(!part.shown().to_string().contains("internal"));
    }
}
