//! `procura whoami` and `procura logout`.

use anyhow::Context as _;
use serde_json::json;

use super::door::{At, field};

/// Says who is signed in, as the authority knows it.
pub async fn whoami(at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let me = at.open(http).await?.get("/v1/me").await?;
    if at.json {
        println!("{me}");
        return Ok(());
    }
    match field(&me, "human") {
        Ok(human) => {
            let roles = me.get("roles").and_then(|r| r.as_array()).into_iter().flatten().filter_map(|r| r.as_str()).collect::<Vec<_>>();
            println!("{human}, {}", if roles.is_empty() { "no roles".to_owned() } else { format!("roles: {}", roles.join(", ")) });
        }
        Err(_) => println!("{}", field(&me, "principal")?),
    }
    Ok(())
}

/// Ends the session at the authority and forgets it here.
pub async fn logout(at: &At, http: &reqwest::Client) -> anyhow::Result<()> {
    let path = at.session_file()?;
    at.open(http).await?.post("/logout", &json!({})).await?;
    std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    if at.json {
        println!("{}", json!({ "signed_out": true }))
    } else {
        println!("Signed out.")
    }
    Ok(())
}
