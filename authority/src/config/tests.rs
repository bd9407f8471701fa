use super::*;

const ACME: &str = r#"
[server]
public_url = "https://procura.example.com"
tenant = "acme"
data = "/var/lib/procura"

[database]
url_file = "DATABASE"

[keys]
folder = "/run/secrets/procura-keys"
anchors = ["ANCHOR1", "ANCHOR2"]

[issuer]
url = "https://login.example.com"
client_id = "procura"
client_secret_file = "SECRET"

[[grants]]
human = { issuer = "https://login.example.com", subject = "00u1" }
roles = ["security"]
max_ttl_secs = 28800
max_depth = 3
class_max = "restricted"
capabilities = [{ tool = "payments", action = "transfer", resource = "acct/*", limits = [{ kind = "at_most", arg = "amount", max = 100000, unit = "EUR" }] }]
"#;

struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        let files = Self(tempfile::tempdir().unwrap());
        std::fs::write(files.path("database"), "postgres://procura:hunter2@db.example.com/procura\n").unwrap();
        std::fs::write(files.path("secret"), "open sesame\n").unwrap();
        for name in ["database", "secret"] {
            std::fs::set_permissions(files.path(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        }
        files
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn text(&self) -> String {
        let anchor = |n: u8| Key::of(&ed25519_dalek::SigningKey::from_bytes(&[n; 32])).to_string();
        let text = ACME.replace("DATABASE", self.path("database").to_str().unwrap()).replace("SECRET", self.path("secret").to_str().unwrap());
        text.replace("ANCHOR1", &anchor(1)).replace("ANCHOR2", &anchor(2))
    }
    /// The sample with one piece of it changed.
    fn load(&self, from: &str, to: &str, env: &[(&str, &str)]) -> Result<Config, String> {
        let text = self.text();
        assert!(text.contains(from), "{from}");
        std::fs::write(self.path("procura.toml"), text.replacen(from, to, 1)).unwrap();
        let env = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        Config::load(&self.path("procura.toml"), env).map_err(|e| e.to_string())
    }
}

#[test]
fn a_sample_is_read_whole_and_shows_no_secret() {
    let files = Files::new();
    let config = files.load("[server]", "[server]", &[]).unwrap();
    assert_eq!(config.server.listen, default_listen());
    assert_eq!(config.anchors().unwrap().threshold(), 2);
    assert!(matches!(config.database_url().unwrap(), DatabaseUrl::Postgres(_)));
    assert!(config.issuer().unwrap().client_secret.is_some());
    assert_eq!(config.weaknesses().unwrap(), Vec::<String>::new());
    let shown = format!("{}{config:?}{:?}", config.effective().unwrap(), config.database_url().unwrap());
    assert!(shown.contains("transfer") && !shown.contains("hunter2") && !shown.contains("sesame"), "{shown}");
}

#[test]
fn the_environment_overrides_single_fields() {
    let files = Files::new();
    let env = [
        ("PROCURA_SERVER__LISTEN", "0.0.0.0:80"),
        ("PROCURA_SERVER__MAX_TTL_SECS", "3600"),
        ("PROCURA_KEYS__THRESHOLD", "1"),
        ("PROCURA_ISSUER__ALGORITHMS", r#"["EdDSA"]"#),
        ("PROCURA_REDIS__URL", "redis://cache:6379"),
        ("PROCURA_REDIS__SHARDED", "true"),
        // A number that is text.
        ("PROCURA_ISSUER__CLIENT_ID", "42"),
        ("PROCURA_LOG", "debug"),
        ("HOME", "/root"),
    ];
    let config = files.load("[server]", "[server]", &env).unwrap();
    assert_eq!((config.server.max_ttl_secs, config.issuer.client_id.as_str()), (3600, "42"));
    assert_eq!(config.anchors().unwrap().threshold(), 1);
    assert!(config.redis.as_ref().unwrap().sharded);
    let weak = config.weaknesses().unwrap().join("\n");
    for named in ["server.listen", "keys.threshold", "redis.url"] {
        assert!(weak.contains(named), "{named} in {weak}");
    }
    for (name, field) in [("PROCURA_SERVER__LISTENS", "listens"), ("PROCURA_SEVER__LISTEN", "sever"), ("PROCURA_GRANTS__HUMAN", "grants")] {
        let said = files.load("[server]", "[server]", &[(name, "x")]).unwrap_err();
        assert!(said.contains(name) && said.contains(field), "{said}");
    }
}

#[test]
fn every_field_that_is_no_text_can_come_from_the_environment() {
    // Whoever adds such a field adds it to the list: its value in the environment would be text otherwise.
    let files = Files::new();
    let said = |name: &str, value: &str| files.load("[server]", "[server]", &[("PROCURA_REDIS__URL", "redis://c"), (name, value)]);
    for (name, value) in [
        ("PROCURA_SERVER__MAX_TTL_SECS", "60"),
        ("PROCURA_KEYS__THRESHOLD", "2"),
        ("PROCURA_KEYS__ANCHORS", "[]"),
        ("PROCURA_ISSUER__ALGORITHMS", r#"["RS256"]"#),
        ("PROCURA_REDIS__SHARDED", "false"),
        ("PROCURA_LIMITS__BODY_SECS", "7"),
        ("PROCURA_PROXIES__TRUSTED", r#"["10.0.0.0/8"]"#),
    ] {
        let read = said(name, value);
        // No anchors is a configuration, too, but not beside a threshold; the sample has none.
        assert!(read.is_ok(), "{name}={value}: {read:?}");
    }
    assert!(said("PROCURA_REDIS__SHARDED", "perhaps").is_err());
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let files = Files::new();
    for (from, to, named) in [
        ("tenant =", "tennant =", "tennant"),
        ("[issuer]", "[isuer]", "isuer"),
        ("https://procura.example.com", "http://procura.example.com", "server.public_url"),
        ("https://procura.example.com", "https://procura.example.com/", "server.public_url"),
        ("https://procura.example.com", "https://procura.example.com/auth", "server.public_url"),
        ("data =", "max_ttl_secs = 59\ndata =", "server.max_ttl_secs"),
        ("url_file =", "url = \"sqlite:\"\nurl_file =", "database.url"),
        ("[keys]", "[keys]\nthreshold = 3", "keys.anchors"),
        ("client_id = \"procura\"", "client_id = \"procura\"\nalgorithms = []", "issuer.algorithms"),
        ("client_id = \"procura\"", "client_id = \"procura\"\nalgorithms = [\"none\"]", "none"),
        ("[issuer]", "[redis]\nurl = \"redis://c\"\nchannel_prefix = \"\"\n[issuer]", "redis.channel_prefix"),
        ("[issuer]", "[redis]\n[issuer]", "redis.url"),
        ("[[grants]]", "[[grants]]\nhuman = { issuer = \"https://login.example.com\", subject = \"00u1\" }\n[[grants]]", "grants"),
        ("max_depth = 3", "max_deepness = 3", "max_deepness"),
    ] {
        let said = files.load(from, to, &[]).unwrap_err();
        assert!(said.contains(named) && !said.contains("hunter2"), "{to}: {said}");
    }
    for url in ["postgres://me:hunter2@db/x", "postgres://me@db/x?password=hunter2", "mysql://db/hunter2", "sqlite:///hunter2"] {
        std::fs::write(files.path("other"), url).unwrap();
        let text = files.text().lines().filter(|l| !l.starts_with("url_file")).collect::<Vec<_>>().join("\n");
        std::fs::write(files.path("here.toml"), text.replace("[database]", &format!("[database]\nurl = \"{url}\""))).unwrap();
        let said = Config::load(&files.path("here.toml"), []).unwrap_err().to_string();
        assert!(said.starts_with("database.url: ") && !said.contains("hunter2"), "{said}");
    }
    let missing = files.load("client_secret_file = \"", "client_secret_file = \"/nowhere", &[]).unwrap().issuer().unwrap_err();
    assert!(missing.to_string().contains("/nowhere"), "{missing}");
}

#[test]
fn every_limit_is_checked_and_shown() {
    let files = Files::new();
    let shown = files.load("[server]", "[server]", &[]).unwrap().effective().unwrap();
    let limits = shown["limits"].as_object().unwrap();
    assert!(limits.len() >= 16, "{limits:?}");
    for name in limits.keys() {
        let variable = format!("PROCURA_LIMITS__{}", name.to_ascii_uppercase());
        let said = files.load("[server]", "[server]", &[(&variable, "0")]).unwrap_err();
        assert!(said.starts_with(&format!("limits.{name}: expected ")) && said.ends_with("got 0"), "{said}");
    }
}
