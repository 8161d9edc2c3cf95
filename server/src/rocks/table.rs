//! JSON arrays as tables for people.

use serde_json::Value;

/// `rows` with the columns `columns` (head, field).
pub(super) fn table(rows: &[Value], columns: &[(&str, &str)], heads: bool) -> String {
    let text = |row: &Value, field: &str| match &row[field] {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.replace('\n', "\\n"),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        other => other.to_string(),
    };
    let mut lines: Vec<Vec<String>> = Vec::new();
    if heads {
        lines.push(columns.iter().map(|(head, _)| (*head).to_owned()).collect());
    }
    lines.extend(rows.iter().map(|row| columns.iter().map(|(_, field)| text(row, field)).collect()));
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut out = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        out.push_str(cells.join("  ").trim_end());
        out.push('\n');
    }
    out
}
