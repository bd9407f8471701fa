//! Redis on the command line: for development and the sample tool. A server in production reads it from its configuration file.

use std::path::PathBuf;

use procura_verifier::feed::redis::{RedisConfig, RedisConfigError};
use secrecy::{ExposeSecret as _, SecretString};

/// Redis beside the streams.
#[derive(clap::Args, Debug)]
pub struct RedisArgs {
    /// Redis beside the streams: redis://user:password@host:port, or rediss:// for TLS. Others see the command line: better by the environment
    #[arg(long = "redis", env = "PROCURA_REDIS", hide_env_values = true, value_name = "URL", value_parser = secret)]
    url: Option<SecretString>,
    /// The certificates (PEM) that Redis's own must come from, in place of the machine's
    #[arg(long = "redis-ca", value_name = "FILE", requires = "url")]
    ca: Option<PathBuf>,
    /// Redis is a cluster: use sharded channels
    #[arg(long = "redis-sharded", requires = "url")]
    sharded: bool,
}

impl RedisArgs {
    /// What was asked for.
    pub fn config(self) -> Result<Option<RedisConfig>, RedisConfigError> {
        let Some(url) = self.url else { return Ok(None) };
        Ok(Some(RedisConfig { ca: self.ca, sharded: self.sharded, ..RedisConfig::at(url.expose_secret().parse()?) }))
    }
}

/// Read later, by us: the parser of the command line repeats what it does not understand.
fn secret(text: &str) -> Result<SecretString, std::convert::Infallible> {
    Ok(text.into())
}
