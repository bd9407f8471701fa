//! `procura keys`: the key list from its preparation over the anchors' signatures to its publishing.

use std::io::{BufRead as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD as BASE64;
use procura_verifier::ids::{Clock as _, Key, SystemClock, Tenant};
use procura_verifier::key_list::{Anchors, KeyUse, UnverifiedKeyList};
use procura_verifier::trust::TrustFile;
use procura_verifier::wire::Canonical as _;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::door::{At, Unreachable, field};
use super::keygen;
use crate::config;
use crate::keys::change::{Wanted, first, next};
use crate::keys::proposal::Proposal;
use crate::signer::file::{make_key, read_key, scan};

/// `procura keys …`
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Show the keys of the list in force: windows, states, and which of them this authority can sign with
    ///
    /// Example: procura keys list --data ./authority
    List(At),
    /// Make keys that sign key lists, offline
    #[command(subcommand)]
    Anchor(Anchor),
    /// Make new key pairs in the key folder and a next key list for the anchors to sign
    ///
    /// Nothing changes before the list is published. A rotated key signs on beside the new one for the overlap, which has to
    /// cover the time until the list is published. A key that was stolen is declared dead: it stops at once.
    ///
    /// Example: procura keys prepare --data ./authority --rotate root,feed --out list.unsigned
    Prepare(Prepare),
    /// Sign a key list with an anchor key. Needs no network: say what it does, ask, add the signature
    ///
    /// Example: procura keys sign --anchor anchor-1.key list.unsigned --out list.signed
    Sign(Sign),
    /// Put the signatures of several copies of one list into the first
    ///
    /// Example: procura keys merge list.signed from-bob.signed
    Merge {
        /// The file that takes them
        into: PathBuf,
        /// The others
        #[arg(required = true)]
        from: Vec<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put a signed key list in force
    ///
    /// Example: procura keys publish --data ./authority list.signed
    Publish(Publish),
    /// Write the trust file that verifiers and auditors start from
    ///
    /// Example: `procura keys trust --anchor 1f0c… --anchor 77ab… --threshold 2 --authority https://procura.example --out trust.json`
    Trust(Trust),
}

/// `procura keys anchor …`
#[derive(clap::Subcommand, Debug)]
pub enum Anchor {
    /// Make an anchor key. Do this on a machine without a network, and keep the file off the authority's
    ///
    /// Example: procura keys anchor new --out anchor-1.key
    New(keygen::Args),
}

/// What `procura keys prepare` takes.
#[derive(clap::Args, Debug)]
pub struct Prepare {
    /// The authority's data folder: its keys are in `keys`, its list is asked for over its socket
    #[arg(long, required_unless_present = "keys")]
    data: Option<PathBuf>,
    /// The key folder, if it is elsewhere
    #[arg(long)]
    keys: Option<PathBuf>,
    /// The list in force, from the file that was published
    #[arg(long, conflicts_with_all = ["authority", "first"])]
    list: Option<PathBuf>,
    /// The list in force, from an authority's URL
    #[arg(long, conflicts_with = "first")]
    authority: Option<String>,
    /// The first list of a new authority, with a new key of each use that the key folder lacks
    #[arg(long, requires = "tenant", conflicts_with_all = ["rotate", "dead"])]
    first: bool,
    /// Whose the first list is
    #[arg(long)]
    tenant: Option<Tenant>,
    /// Longest life of a token, in seconds; for the first list
    #[arg(long, default_value_t = config::MAX_TTL_SECS)]
    max_ttl_secs: u64,
    /// Uses that get a new key: root, feed, event, log, card, approval
    #[arg(long, value_delimiter = ',')]
    rotate: Vec<KeyUse>,
    /// A key that is dead as soon as the list is published; its use gets a new one
    #[arg(long)]
    dead: Vec<Key>,
    /// Why, for the anchors to read
    #[arg(long)]
    reason: Option<String>,
    /// How long new keys live
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
    valid_days: u64,
    /// How long a rotated key signs on; it goes on vouching for tokens and cards until their end
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(0..=365))]
    overlap_days: u64,
    /// Where to write the list
    #[arg(long)]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `procura keys sign` takes.
#[derive(clap::Args, Debug)]
pub struct Sign {
    /// The anchor's private key
    #[arg(long)]
    anchor: PathBuf,
    /// The list
    file: PathBuf,
    /// Where to write it with the signature; by default over the file that came
    #[arg(long)]
    out: Option<PathBuf>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print JSON; needs --yes
    #[arg(long, requires = "yes")]
    json: bool,
}

/// What `procura keys publish` takes.
#[derive(clap::Args, Debug)]
pub struct Publish {
    /// The signed list; several copies with a signature each are put together
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// A problem that is meant, by the name in the refusal
    #[arg(long)]
    force: Vec<String>,
    #[command(flatten)]
    at: At,
}

/// What `procura keys trust` takes.
#[derive(clap::Args, Debug)]
pub struct Trust {
    /// An anchor's public key, from whoever keeps it: not from the authority
    #[arg(long, required = true)]
    anchor: Vec<Key>,
    /// How many of them must sign
    #[arg(long)]
    threshold: usize,
    /// The authority's URL
    #[arg(long)]
    authority: String,
    /// The list to start from; by default the authority is asked. The anchors vouch for either
    #[arg(long)]
    list: Option<PathBuf>,
    /// Where to write the trust file
    #[arg(long)]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub async fn run(command: Command, http: &reqwest::Client) -> anyhow::Result<()> {
    match command {
        Command::List(at) => list(&at, http).await,
        Command::Anchor(Anchor::New(args)) => keygen::run(&args),
        Command::Prepare(args) => prepare(args, http).await,
        Command::Sign(args) => sign(&args),
        Command::Merge { into, from, json } => {
            let mut list = Proposal::load(&into)?;
            from.iter().try_for_each(|other| anyhow::Ok(list.merge(&Proposal::load(other)?)?))?;
            write(&into, &list.to_json()?)?;
            if json {
                println!("{}", described(&list, &into)?);
            } else {
                println!("{} signatures in {}", list.list.signers().count(), into.display());
            }
            Ok(())
        }
        Command::Publish(args) => publish(args, http).await,
        Command::Trust(args) => trust(args, http).await,
    }
}

async fn list(at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let body = at.open(http).await?.get("/v1/keys").await?;
    if at.json {
        println!("{body}");
        return Ok(());
    }
    println!("Key list version {}", body.get("version").and_then(Value::as_u64).unwrap_or_default());
    for key in body.get("keys").and_then(Value::as_array).into_iter().flatten() {
        let at = |name| procura_verifier::ids::UtcMillis(key.get(name).and_then(Value::as_u64).unwrap_or_default());
        let hand = if key.get("at_hand").and_then(Value::as_bool).unwrap_or_default() { "" } else { ", private key not here" };
        println!("{:9} {}  {}  from {} until {}{hand}", field(key, "usage")?, field(key, "key")?, field(key, "state")?, at("from_ms"), at("until_ms"));
    }
    Ok(())
}

async fn prepare(args: Prepare, http: &reqwest::Client) -> anyhow::Result<()> {
    let folder = args.keys.clone().or_else(|| args.data.as_ref().map(|d| d.join("keys"))).context("expected --keys or --data")?;
    if args.out.exists() {
        bail!("{} is there already", args.out.display());
    }
    let (now, mut rng, day) = (SystemClock.wall(), StdRng::from_os_rng(), 24 * 3_600_000);
    let proposal = if args.first {
        let tenant = args.tenant.clone().context("expected --tenant")?;
        let mut keys: Vec<_> = scan(&folder)?.into_keys().collect();
        for usage in KeyUse::ALL {
            if !keys.iter().any(|(u, _)| *u == usage) {
                keys.push((usage, make_key(&folder, usage, &mut rng)?));
            }
        }
        let payload = first(tenant, &keys, args.max_ttl_secs, args.valid_days * day, now);
        Proposal { before: None, list: UnverifiedKeyList::sign(&payload, &[]), reason: args.reason }
    } else {
        let before = in_force(&args, http).await?;
        let payload = before.unverified_payload()?;
        let mut uses: Vec<_> = args.rotate.clone();
        uses.extend(payload.keys.iter().filter(|k| args.dead.contains(&k.key)).map(|k| k.usage));
        uses.sort_unstable();
        uses.dedup();
        let wanted =
            |new| Wanted { new, rotate: args.rotate.clone(), dead: args.dead.clone(), valid_ms: args.valid_days * day, overlap_ms: args.overlap_days * day };
        // Asked before any key is made: a mistake leaves nothing behind.
        let placeholder = uses.iter().map(|usage| (*usage, Key::from_bytes([0; 32]))).collect();
        next(&payload, &wanted(placeholder), now)?;
        let new = uses.iter().map(|usage| Ok((*usage, make_key(&folder, *usage, &mut rng)?))).collect::<anyhow::Result<Vec<_>>>()?;
        let payload = next(&payload, &wanted(new), now)?;
        Proposal { before: Some(before), list: UnverifiedKeyList::sign(&payload, &[]), reason: args.reason }
    };
    write(&args.out, &proposal.to_json()?)?;
    if args.json {
        println!("{}", described(&proposal, &args.out)?);
    } else {
        println!(
            "{}\nWritten to {}. The anchors sign it: procura keys sign --anchor FILE {}",
            proposal.summary()?.join("\n"),
            args.out.display(),
            args.out.display()
        );
    }
    Ok(())
}

/// The list in force: as a file, from the socket of whoever runs, from the folder where nobody does, or from a URL.
async fn in_force(args: &Prepare, http: &reqwest::Client) -> anyhow::Result<UnverifiedKeyList> {
    if let Some(file) = &args.list {
        return Ok(Proposal::load(file)?.list);
    }
    if let Some(url) = &args.authority {
        return served(http, url).await;
    }
    let data = args.data.as_ref().context("expected --data, --list or --authority")?;
    key_list(&At::on(data).open(http).await?.get("/v1/keys").await?)
}

async fn served(http: &reqwest::Client, url: &str) -> anyhow::Result<UnverifiedKeyList> {
    let answer = http.get(format!("{url}/v1/keys")).send().await.map_err(|e| Unreachable::from_http(format!("the authority at {url}"), &e))?;
    let body: Value = answer.error_for_status()?.json().await.context("the authority answered something that is not JSON")?;
    key_list(&body)
}

fn key_list(body: &Value) -> anyhow::Result<UnverifiedKeyList> {
    let bytes = BASE64.decode(field(body, "key_list")?).context("the authority's key list is not base64url")?;
    Ok(UnverifiedKeyList::from_bytes(&bytes)?)
}

fn sign(args: &Sign) -> anyhow::Result<()> {
    let anchor = read_key(&args.anchor)?;
    let mut proposal = Proposal::load(&args.file)?;
    let public = Key::of(&anchor);
    if !args.json {
        println!("{}", proposal.summary()?.join("\n"));
        match &proposal.before {
            Some(before) if before.signers().any(|k| *k == public) => println!("The list before it carries this anchor's own signature."),
            Some(_) => println!("The list before it does not carry this anchor's signature: compare it with another source."),
            None => println!("There is no list before it."),
        }
    }
    if !args.yes {
        print!("Sign it as anchor {public}? Type yes: ");
        std::io::stdout().flush()?;
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        if line.trim() != "yes" {
            bail!("not signed");
        }
    }
    proposal.list.add_signature(&anchor)?;
    let out = args.out.as_ref().unwrap_or(&args.file);
    write(out, &proposal.to_json()?)?;
    if args.json {
        println!("{}", described(&proposal, out)?);
    } else {
        println!("Signed: {} signatures in {}.", proposal.list.signers().count(), out.display());
    }
    Ok(())
}

async fn publish(args: Publish, http: &reqwest::Client) -> anyhow::Result<()> {
    let mut files = args.files.iter();
    let mut proposal = Proposal::load(files.next().context("expected a file")?)?;
    files.try_for_each(|other| anyhow::Ok(proposal.merge(&Proposal::load(other)?)?))?;
    let body = json!({ "key_list": BASE64.encode(proposal.list.to_bytes()), "force": args.force });
    let done = args.at.open(http).await?.post("/v1/keys", &body).await?;
    if args.at.json {
        println!("{done}");
    } else {
        let version = done.get("version").and_then(Value::as_u64).unwrap_or_default();
        match done.get("leaf_index").and_then(Value::as_u64) {
            Some(leaf) => println!("Key list version {version} is in force, log leaf {leaf}."),
            None => println!("Key list version {version} was in force already."),
        }
    }
    Ok(())
}

async fn trust(args: Trust, http: &reqwest::Client) -> anyhow::Result<()> {
    let list = match &args.list {
        Some(file) => Proposal::load(file)?.list,
        None => served(http, &args.authority).await?,
    };
    let anchors = Anchors::new(args.anchor, args.threshold)?;
    // Which tenant it is of is said under the anchors' signatures.
    let accepted = anchors.accept(&list, &list.unverified_payload()?.tenant)?;
    let payload = accepted.payload();
    let file = TrustFile { anchors, authority: args.authority, tenant: payload.tenant.clone(), key_list: list };
    let json = file.to_json();
    // As whoever starts from it will: the URL is looked at too.
    TrustFile::from_json(json.as_bytes())?;
    write(&args.out, &json)?;
    if args.json {
        println!("{}", json!({ "tenant": payload.tenant, "version": payload.version, "file": args.out }));
    } else {
        println!("Trust file of tenant `{}`, key list version {}, written to {}.", payload.tenant, payload.version, args.out.display());
    }
    Ok(())
}

fn described(proposal: &Proposal, file: &Path) -> anyhow::Result<Value> {
    let payload = proposal.payload()?;
    let signers: Vec<_> = proposal.list.signers().collect();
    let keys: Vec<_> = payload.keys.iter().map(|k| json!({ "usage": k.usage, "key": k.key, "from_ms": k.from, "until_ms": k.until })).collect();
    Ok(json!({
        "file": file, "tenant": payload.tenant, "version": payload.version, "fingerprint": hex::encode(proposal.list.fingerprint()),
        "signed_by": signers, "summary": proposal.summary()?, "keys": keys, "dead": payload.dead,
    }))
}

/// Aside and renamed: a process that is killed leaves the whole file or none.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let aside = path.with_extension("part");
    let written = std::fs::File::create(&aside).and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()));
    written.and_then(|()| std::fs::rename(&aside, path)).with_context(|| format!("cannot write {}", path.display()))
}
