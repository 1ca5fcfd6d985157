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
