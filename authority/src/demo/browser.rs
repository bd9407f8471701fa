//! A person's browser, as far as signing in needs one: it follows redirects, keeps cookies and fills in the form it is shown.

use anyhow::{Context as _, bail};
use reqwest::{Client, Response, Url};

/// Opens `url`, follows every redirect, signs the form in as `username`, and follows the redirects to the end.
pub async fn sign_in_at(url: Url, username: &str) -> anyhow::Result<()> {
    let http = Client::builder().cookie_store(true).redirect(reqwest::redirect::Policy::none()).build()?;
    let (page, at) = follow(&http, http.get(url.clone()).send().await?, url).await?;
    let html = page.text().await?;
    let action = at.join(&attribute(&html, "<form ", "action").context("no form on the sign-in page")?)?;
    let mut fields = vec![("username".to_owned(), username.to_owned())];
    for input in html.split("<input ").skip(1).filter(|i| i.starts_with("type=\"hidden\"")) {
        let field = |name| attribute(input, "", name).context("a hidden field without name or value");
        fields.push((field("name")?, field("value")?));
    }
    let answer = http.post(action.clone()).form(&fields).send().await?;
    let (last, at) = follow(&http, answer, action).await?;
    if !last.status().is_success() {
        bail!("signing in ended at {} with {}", at.path(), last.status());
    }
    Ok(())
}

async fn follow(http: &Client, mut answer: Response, mut at: Url) -> anyhow::Result<(Response, Url)> {
    for _ in 0..10 {
        if !answer.status().is_redirection() {
            return Ok((answer, at));
        }
        let to = answer.headers().get("location").and_then(|l| l.to_str().ok()).context("a redirect without a target")?;
        at = at.join(to)?;
        answer = http.get(at.clone()).send().await?;
    }
    bail!("more than ten redirects")
}

/// The value of an attribute after a mark. The form is our own provider's: no entities in its values.
fn attribute(html: &str, mark: &str, name: &str) -> Option<String> {
    let (_, rest) = html.split_once(mark)?;
    let (_, rest) = rest.split_once(&format!("{name}=\""))?;
    rest.split_once('"').map(|(value, _)| value.to_owned())
}
