use super::*;

#[test]
fn columns_fit_their_widest_cell() {
    let mut table = Table::new(["ID", "POD", "STATE"]);
    table.row(["7".into(), "shop/web".into(), "ready".into()]);
    table.row(["12".into(), "".into(), "é".into()]);
    assert_eq!(table.to_string(), "ID  POD       STATE\n7   shop/web  ready\n12  -         é\n");
}

#[test]
fn control_characters_are_shown_not_obeyed() {
    let mut table = Table::new(["PATH"]);
    table.row(["/a\u{1b}[2J\n".into()]);
    assert_eq!(table.to_string(), "PATH\n/a\\u{1b}[2J\\n\n");
}

#[test]
fn the_widest_columns_are_cut_to_the_terminal() {
    let mut table = Table::new(["ID", "PODS", "LABELS"]);
    table.row(["7".into(), "p".repeat(30), "é".repeat(400)]);
    table.row(["8".into(), "shop/web".into(), "app=web".into()]);
    let all = table.to_string();
    assert!(all.contains(&"é".repeat(400)), "nothing is cut where nobody asks for it");
    table.cut_to(80);
    let lines: Vec<String> = table.to_string().lines().map(str::to_owned).collect();
    assert_eq!(lines[1].chars().count(), 80, "{lines:?}");
    assert!(lines[1].contains(&"p".repeat(30)), "what fits is whole: {lines:?}");
    assert!(lines[1].ends_with("é\u{2026}"), "{lines:?}");
    assert_eq!(lines[2], format!("8   {:30}  app=web", "shop/web"));
    // Both are cut to the same width, and none to nothing.
    table.cut_to(40);
    assert!(table.to_string().lines().all(|line| line.chars().count() <= 40), "{table}");
    table.cut_to(5);
    assert!(table.to_string().contains("ppppppp\u{2026}"), "{table}");
}
