//! `procura keygen`: an Ed25519 key for an agent or a verifier.

use std::path::PathBuf;

use ed25519_dalek::SigningKey;
use procura_verifier::ids::Key;
use rand::rngs::StdRng;
use rand::{RngCore as _, SeedableRng as _};

/// What `procura keygen` takes.
#[derive(clap::Args, Debug)]
pub struct Args {
    /// Where to write the private key (mode 0600); never over a file that is there
    #[arg(long)]
    out: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let mut seed = [0; 32];
    StdRng::from_os_rng().fill_bytes(&mut seed);
    let key = SigningKey::from_bytes(&seed);
    crate::signer::file::write_key(&args.out, &key)?;
    let public = Key::of(&key);
    if args.json {
        println!("{}", serde_json::json!({ "public_key": public, "file": args.out }));
    } else {
        println!("Private key written to {}.\nPublic key: {public}", args.out.display());
    }
    Ok(())
}
