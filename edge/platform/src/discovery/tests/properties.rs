//! Mutated texts.

use proptest::prelude::*;

use super::*;

proptest! {
    /// Bytes of a manifest that were changed, cut or repeated; every fault has a place in the text.
    #[test]
    fn no_manifest_panics_and_every_finding_has_a_place(
        at in 0..FACE.len(), len in 0..40usize, put in "\\PC{0,12}|[\\[\\]{}=.\"'\\n#0-9a-z]{0,40}",
    ) {
        let end = (at + len).min(FACE.len());
        let text = format!("{}{put}{}", &FACE[..at], &FACE[end..]);
        let file = Path::new("/nowhere/face/plugin.toml");
        if let (_, Err(findings)) = manifest::parse(file, &text) {
            prop_assert!(!findings.is_empty());
            let lines = text.split('\n').count();
            prop_assert!(findings.iter().all(|f| (1..=lines).contains(&(f.line as usize))), "{findings:?}");
        }
    }

    #[test]
    fn no_entry_points_panic(text in "([\\[\\]=:.#a-z \\n]|visualpath\\.extractors|\\PC){0,60}") {
        if let Ok(entries) = entry_points::parse(&text) {
            let mut found = Discovered::default();
            let count = entries.len();
            let origin = Origin::Venv("/v".into());
            entry_points::add(entries, "1", &origin, Path::new("/v/e"), &mut found);
            prop_assert_eq!(found.externals.len() + found.problems.len(), count);
            prop_assert!(found.externals.iter().all(|e| !e.name.contains('/') && e.name != ".."));
        }
    }
}
