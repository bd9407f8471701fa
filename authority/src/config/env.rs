//! Overrides from the environment: `PROCURA_SECTION__FIELD=value`.

use serde::Deserialize as _;
use toml::{Table, Value};

use super::{Config, ConfigError};

/// The file's text with the overrides laid over it. Names without `__` are not settings (`PROCURA_LOG`); one with it that
/// names no field is refused like an unknown field of the file.
pub(super) fn overridden(name: &str, text: &str, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let form = |name: &str, e: &toml::de::Error| ConfigError::Form(name.to_owned(), e.message().to_owned());
    let mut table: Table = text.parse().map_err(|e| form(name, &e))?;
    let mut overrides = Vec::new();
    for (variable, value) in environment {
        let Some(setting) = variable.strip_prefix("PROCURA_") else { continue };
        let Some((section, field)) = setting.split_once("__") else { continue };
        let (section, field) = (section.to_ascii_lowercase(), field.to_ascii_lowercase());
        let value = if section == "limits" || NOT_TEXT.contains(&(&section, &field)) {
            // A number, a truth, a list: as the file would have it.
            let parsed: Table = format!("value = {value}").parse().map_err(|e| form(&variable, &e))?;
            parsed.get("value").cloned().unwrap_or(Value::String(value))
        } else {
            Value::String(value)
        };
        let at = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
        let Some(at) = at.as_table_mut() else {
            return Err(ConfigError::Form(variable, format!("`{section}` is no section of single fields: it stands in the file alone")));
        };
        at.insert(field, value);
        overrides.push(variable);
    }
    Config::deserialize(table).map_err(|e| {
        let beside = if overrides.is_empty() { String::new() } else { format!(" with {}", overrides.join(", ")) };
        form(&format!("{name}{beside}"), &e)
    })
}

/// The fields that are no text; beside them all of `limits`.
const NOT_TEXT: [(&str, &str); 7] = [
    ("server", "max_ttl_secs"),
    ("keys", "anchors"),
    ("keys", "threshold"),
    ("issuer", "algorithms"),
    ("redis", "sharded"),
    ("proxies", "trusted"),
    ("traces", "ratio"),
];
