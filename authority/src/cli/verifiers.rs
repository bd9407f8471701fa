//! `procura verifiers`: who is enrolled, who listens, how far each has applied the feed; enrol and retire.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use procura_verifier::claims::Audience;
use procura_verifier::ids::{Key, VerifierId};
use procura_verifier::trust::TrustFile;
use serde_json::{Value, json};

use super::door::{At, field};

/// What `procura verifiers` takes; without a command it lists.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    at: At,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Enrol the key of a tool's instance
    ///
    /// Example: procura verifiers enroll --audience payments/1 --key payments-1.key --trust trust.json --out payments-1.json
    Enroll {
        /// The service and instance that it judges for
        #[arg(long)]
        audience: Audience,
        /// The private key, from `procura keygen`; only its public half is sent
        #[arg(long, conflicts_with = "public_key")]
        key: Option<PathBuf>,
        /// The public key, in hex
        #[arg(long)]
        public_key: Option<Key>,
        /// The trust file of the instance, for the tool file
        #[arg(long, requires = "out")]
        trust: Option<PathBuf>,
        /// Write the tool file here: all that the instance is started from. It names key and trust file by their paths from its folder
        #[arg(long, requires_all = ["key", "trust"])]
        out: Option<PathBuf>,
        /// The id that it had before a restored backup lost its enrolment: what it signed since is taken in then
        #[arg(long)]
        verifier: Option<VerifierId>,
        #[command(flatten)]
        at: At,
    },
    /// Take nothing more that a verifier's key signs; its audience is free for the next one
    ///
    /// Example: procura verifiers retire vrf_… --reason 'moved to another site'
    Retire {
        /// Which
        verifier: VerifierId,
        /// Why; only its salted hash stands in the log
        #[arg(long)]
        reason: String,
        #[command(flatten)]
        at: At,
    },
}

/// Runs the command.
pub async fn run(args: &Args, http: &reqwest::Client) -> anyhow::Result<()> {
    match &args.command {
        None => list(&args.at, http).await,
        Some(Command::Enroll { audience, key: file, public_key, verifier, trust, out, at }) => {
            let key = match (file, public_key) {
                (Some(file), None) => Key::of(&crate::signer::file::read_key(file)?),
                (None, Some(key)) => *key,
                _ => bail!("expected --key FILE or --public-key HEX"),
            };
            let out = match (file, trust, out) {
                (Some(key), Some(trust), Some(out)) => Some(ToolFile::new(out, key, trust)?),
                _ => None,
            };
            let mut body = json!({ "audience": audience, "key": key });
            if let (Some(verifier), Some(body)) = (verifier, body.as_object_mut()) {
                body.insert("verifier".to_owned(), json!(verifier));
            }
            let enrolled = at.open(http)?.post("/v1/verifiers", &body).await?;
            let out = out.map(|out| out.write(audience, field(&enrolled, "verifier")?)).transpose()?;
            if at.json {
                println!("{enrolled}");
            } else {
                println!("{audience} is {}, with key {key}.", field(&enrolled, "verifier")?);
                if let Some(out) = out {
                    println!("A tool starts from {}: Guard::open in the sdk.", out.display());
                }
            }
            Ok(())
        }
        Some(Command::Retire { verifier, reason, at }) => {
            let retired = at.open(http)?.post("/v1/verifiers/retire", &json!({ "verifier": verifier, "reason": reason })).await?;
            if at.json {
                println!("{retired}");
            } else {
                println!("{verifier} is retired.");
            }
            Ok(())
        }
    }
}

/// A tool file that is about to be written: what would stop it is found before the enrolment.
struct ToolFile<'a> {
    out: &'a Path,
    key: PathBuf,
    trust: PathBuf,
}

impl<'a> ToolFile<'a> {
    fn new(out: &'a Path, key: &Path, trust: &Path) -> anyhow::Result<Self> {
        TrustFile::from_json(&std::fs::read(trust).with_context(|| format!("cannot read {}", trust.display()))?)?;
        anyhow::ensure!(!out.exists(), "{} is there already, expected a name that is free", out.display());
        let folder = out.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let folder = folder.canonicalize().with_context(|| format!("no folder {}", folder.display()))?;
        // From beside it by name, from elsewhere by the whole path: the folder may move with what lies in it.
        let seen = |path: &Path| {
            let whole = path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?;
            anyhow::Ok(whole.strip_prefix(&folder).map_or_else(|_| whole.clone(), Path::to_owned))
        };
        Ok(Self { out, key: seen(key)?, trust: seen(trust)? })
    }

    fn write(self, audience: &Audience, verifier: &str) -> anyhow::Result<&'a Path> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let text = json!({ "version": 1, "audience": audience, "verifier": verifier, "trust": self.trust, "key": self.key });
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.out)?;
        writeln!(file, "{text:#}")?;
        file.sync_all()?;
        Ok(self.out)
    }
}

async fn list(at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let answer = at.open(http)?.get("/v1/verifiers").await?;
    if at.json {
        println!("{answer}");
        return Ok(());
    }
    let number = |v: &Value, at: &str| v.pointer(at).and_then(Value::as_u64);
    println!("Feed at {}/{}.", number(&answer, "/head/epoch").unwrap_or_default(), number(&answer, "/head/seq").unwrap_or_default());
    let all = answer.get("verifiers").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if all.is_empty() {
        println!("No verifier is enrolled: procura verifiers enroll --help");
    }
    for v in all {
        println!("{:<24} {:<10} {}", field(v, "audience")?, field(v, "state")?, field(v, "verifier")?);
        for run in v.get("runs").and_then(Value::as_array).into_iter().flatten() {
            let word = |name: &str| run.get(name).and_then(Value::as_str).unwrap_or_default();
            let applied = match (number(run, "/acknowledged/epoch"), number(run, "/acknowledged/seq"), number(run, "/acknowledged/fresh_age_ms")) {
                (Some(epoch), Some(seq), Some(age)) => format!("applied {epoch}/{seq}, {age} ms fresh"),
                _ => "nothing acknowledged".to_owned(),
            };
            let bound = number(run, "/bound_ms").map(|ms| format!(" {ms} ms")).unwrap_or_default();
            let ago = number(run, "/heard_ms_ago").unwrap_or_default();
            println!("    {applied}; {}{bound}; heard {ago} ms ago by {}; run {}", word("mode"), word("path"), word("run"));
        }
    }
    let anonymous = number(&answer, "/anonymous_streams").unwrap_or_default();
    if anonymous > 0 {
        println!("{anonymous} streams of verifiers that did not sign in.");
    }
    Ok(())
}
