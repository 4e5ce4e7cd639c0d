//! The reader of model cards, on the project's own card and on misspelt ones.

use super::*;

const CARD: &str = include_str!("../../../models/ssd-oidv4.toml");

fn parse(text: &str) -> Result<ModelCard, CardError> {
    ModelCard::parse(Path::new("models/ssd-oidv4.toml"), text)
}

#[test]
fn the_projects_own_card_is_read() {
    let card = parse(CARD).unwrap();
    assert_eq!(card.name, "ssd-oidv4");
    assert_eq!(card.input_shape(), [1, 3, 300, 300]);
    assert_eq!(card.view().size, Some((300, 300)));
    assert_eq!(card.labels[4], "Person");
    assert_eq!(card.decoder, "ssd");
    assert_eq!(card.output("boxes").unwrap(), "raw_outputs_box_encodings");
    assert!((card.input.scale.get(2) * 255.0 + card.input.bias.get(2) - 1.0).abs() < 1e-9);
}

#[test]
fn a_misspelt_key_names_its_line_and_the_nearest() {
    let text = CARD.replace("bias = -1.0", "bais = -1.0\nbias = -1.0");
    let error = parse(&text).unwrap_err().to_string();
    let line = text.lines().position(|l| l.starts_with("bais")).unwrap() + 1;
    assert_eq!(
        error,
        format!(
            "models/ssd-oidv4.toml:{line}: unknown key `input.bais` (did you mean `input.bias`?)"
        )
    );
    let error = parse(&CARD.replace("[detect]", "[detekt]")).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("`detekt` (did you mean `detect`?)"),
        "{error}"
    );
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let file = parse(CARD).unwrap().file;
    let (bytes, sha256) = (format!("bytes = {}", file.bytes), file.sha256.as_str());
    let upper = sha256.to_uppercase();
    for (from, to, says) in [
        ("schema = 1", "schema = 7", "schema: 7 is not a version"),
        (
            "name = \"ssd-oidv4.onnx\"",
            "name = \"../../etc/passwd\"",
            "file.name",
        ),
        ("width = 300", "width = 0", "input.width: 0 is not in"),
        (bytes.as_str(), "bytes = 0", "file.bytes"),
        (sha256, upper.as_str(), "file.sha256: must be 64"),
        ("threshold = 0.4", "threshold = 1.0", "detect.threshold"),
        ("layout = \"nchw\"", "layout = \"nhwc\"", "input.layout"),
        ("format = \"rgb\"", "format = \"native\"", "input.format"),
        ("decoder = \"ssd\"", "", "output.decoder: is missing"),
        ("scale = 0.00784313725490196", "scale = nan", "input.scale"),
    ] {
        assert!(CARD.contains(from), "{from}");
        let error = parse(&CARD.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(error.contains(says), "{from} → {to}: {error}");
    }
}

#[test]
fn a_wrong_type_names_its_line() {
    let text = CARD.replacen("width = 300", "width = \"300\"", 1);
    let line = text.lines().position(|l| l.starts_with("width")).unwrap() + 1;
    let error = parse(&text).unwrap_err();
    assert!(
        matches!(error, CardError::Syntax { line: l, .. } if l == line),
        "{error}"
    );
}

#[test]
fn a_decoder_reads_only_its_own_table() {
    #[derive(Debug, Deserialize)]
    struct Ssd {
        anchors: usize,
    }
    let card = parse(CARD).unwrap();
    let error = card
        .decoder::<Ssd>("ssd", &["anchor"], &["boxes", "scores"])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("`ssd.anchors` (did you mean `ssd.anchor`?)"),
        "{error}"
    );
    let error = card
        .decoder::<Ssd>("yolo", &[], &[])
        .unwrap_err()
        .to_string();
    assert!(error.contains("output.decoder"), "{error}");
    let error = card.decoder::<Ssd>("ssd", &[], &["boxes", "scores", "masks"]);
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("output.masks: is missing")
    );
    let keys = [
        "anchors",
        "strides",
        "scale_min",
        "scale_max",
        "aspects",
        "interpolated",
        "first_layer",
        "box_order",
        "variances",
        "score",
        "background",
    ];
    let ssd: Ssd = card.decoder("ssd", &keys, &["boxes", "scores"]).unwrap();
    assert_eq!(ssd.anchors, 1917);
}
