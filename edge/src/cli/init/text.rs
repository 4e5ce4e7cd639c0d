//! The config that `init` writes.

use toml::Value;

/// What goes into it.
#[derive(Debug, Clone)]
pub struct Facts {
    /// First line: who wrote it, and what was measured.
    pub comment: String,
    /// `source.cam0.uri`.
    pub uri: String,
    /// Size and rate to ask of a camera; a file has its own.
    pub size: Option<(u32, u32)>,
    /// Rate to ask of a camera.
    pub source_fps: Option<f64>,
    /// `device.state_dir`, if not the default.
    pub state_dir: Option<String>,
    /// `mqtt.url`.
    pub mqtt_url: String,
    /// `extractor.person.fps`.
    pub fps: Option<f64>,
}

/// Facts as a config.
pub fn config(facts: &Facts) -> String {
    let quoted = |text: &str| Value::String(text.to_owned()).to_string();
    let mut lines = vec![format!("# {}", facts.comment.replace(['\n', '\r'], " "))];
    lines.push("schema = 1".to_owned());
    if let Some(dir) = &facts.state_dir {
        lines.push(format!("device.state_dir = {}", quoted(dir)));
    }
    lines.push(format!("mqtt.url = {}", quoted(&facts.mqtt_url)));
    lines.push(
        "path.main = { source = \"cam0\", extractors = [\"person\"], fusion = \"main\" }"
            .to_owned(),
    );
    lines.push("[source.cam0]".to_owned());
    lines.push(format!("uri = {}", quoted(&facts.uri)));
    if let Some((width, height)) = facts.size {
        lines.push(format!("width = {width}"));
        lines.push(format!("height = {height}"));
    }
    if let Some(fps) = facts.source_fps {
        lines.push(format!("fps = {}", number(fps)));
    }
    lines.push("[extractor.person]".to_owned());
    lines.push("plugin = \"object\"".to_owned());
    lines.push("isolation = \"thread\"".to_owned());
    if let Some(fps) = facts.fps {
        lines.push(format!("fps = {}", number(fps)));
    }
    lines.push("config.classes = [\"person\"]".to_owned());
    lines.push("[fusion.main]".to_owned());
    lines.push("plugin = \"rules\"".to_owned());
    lines.push(
        "config.rule = [{ label = \"person\", when = \"person.count >= 1\", for_ms = 500 }]"
            .to_owned(),
    );
    lines.join("\n") + "\n"
}

/// As people write it: `10`, `12.5`.
pub fn number(n: f64) -> String {
    let text = format!("{n:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_config_has_20_lines_and_quotes_what_it_must() {
        let facts = Facts {
            comment: "two\nlines".to_owned(),
            uri: "dir/a \"b\" \\ c.mp4".to_owned(),
            size: Some((1280, 720)),
            source_fps: Some(29.97),
            state_dir: Some("/home/me/.local/state/visualpath".to_owned()),
            mqtt_url: "mqtt://127.0.0.1:1883".to_owned(),
            fps: Some(12.5),
        };
        let text = config(&facts);
        assert!(text.lines().count() <= 20, "{text}");
        let table: toml::Table = text.parse().unwrap();
        assert_eq!(
            table["source"]["cam0"]["uri"].as_str(),
            Some(facts.uri.as_str())
        );
        assert_eq!(table["source"]["cam0"]["fps"].as_float(), Some(29.97));
        assert_eq!(table["extractor"]["person"]["fps"].as_float(), Some(12.5));
        assert_eq!(number(10.0), "10");
        assert_eq!(number(0.1), "0.1");
    }
}
