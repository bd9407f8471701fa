use super::*;
use ed25519_dalek::pkcs8::EncodePrivateKey as _;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;

/// A folder with a key of this mode and a trust file that is none.
fn folder(mode: u32, tool: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("payments-1.key");
    std::fs::write(&key, SigningKey::from_bytes(&[7; 32]).to_pkcs8_pem(LineEnding::LF).unwrap()).unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
    let path = folder.path().join("payments-1.json");
    std::fs::write(&path, tool).unwrap();
    (folder, path)
}

const TOOL: &str =
    r#"{ "version": 1, "audience": "payments/1", "verifier": "vrf_00000000000000000000000000000001", "trust": "trust.json", "key": "payments-1.key" }"#;

#[test]
fn paths_are_from_the_files_own_folder_and_unknown_fields_are_refused() {
    let (folder, path) = folder(0o600, TOOL);
    let file = ToolFile::read(&path).unwrap();
    assert_eq!((file.trust, file.key), (folder.path().join("trust.json"), folder.path().join("payments-1.key")));
    assert_eq!(file.audience.to_string(), "payments/1");
    for (from, to, said) in [
        ("\"version\": 1", "\"version\": 2", "expected version 1, got 2"),
        ("\"key\"", "\"keys\"", "unknown field `keys`"),
        ("payments/1", "pay ments/1", "tool file"),
    ] {
        std::fs::write(&path, TOOL.replace(from, to)).unwrap();
        let error = ToolFile::read(&path).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn a_key_that_others_may_read_is_refused() {
    for (mode, said) in [(0o644, "has mode 644, expected 600"), (0o600, "trust file: missing field")] {
        let (folder, path) = folder(mode, TOOL);
        std::fs::write(folder.path().join("trust.json"), r#"{ "version": 1 }"#).unwrap();
        let error = ToolFile::read(&path).unwrap().config().err().unwrap().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let error = Guard::open("nowhere.json").err().map(|e| e.to_string()).unwrap();
    assert!(error.starts_with("cannot read nowhere.json: "), "{error}");
}
