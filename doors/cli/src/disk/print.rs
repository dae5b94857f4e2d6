//! Results as text for people. `--json` shows the same values as they are.

use crate::exit::Failure;
use anyhow::Context;
use bulkhead_vm_description::Size;
use serde_json::Value;
use std::io::Write as _;
use std::process::ExitCode;

/// Prints a result as JSON or through `text`.
///
/// # Errors
/// Standard output is closed.
pub fn show(result: &Value, json: bool, text: fn(&Value) -> String) -> Result<ExitCode, Failure> {
    let text = if json { format!("{result:#}\n") } else { text(result) };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the result")?;
    Ok(ExitCode::SUCCESS)
}

fn size(value: &Value) -> String {
    value.as_u64().map_or_else(|| "-".into(), |bytes| format!("{} ({bytes} bytes)", Size::from_bytes(bytes)))
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Words of a key in camel case.
fn words(key: &str) -> String {
    let mut out = String::new();
    for letter in key.chars() {
        if letter.is_uppercase() {
            out.push(' ');
        }
        out.extend(letter.to_lowercase());
    }
    out
}

/// One line per field, in the order of the result; nested ones are indented.
pub fn fields(result: &Value) -> String {
    let mut out = String::new();
    put_fields(result, 0, &mut out);
    out
}

fn put_fields(value: &Value, depth: usize, out: &mut String) {
    let Some(object) = value.as_object() else { return };
    for (key, value) in object.iter().filter(|(_, value)| !value.is_null()) {
        let indent = "  ".repeat(depth);
        match value {
            Value::Object(_) => {
                out.push_str(&format!("{indent}{}:\n", words(key)));
                put_fields(value, depth + 1, out);
            }
            Value::Array(items) => {
                out.push_str(&format!("{indent}{}: {}\n", words(key), if items.is_empty() { "none" } else { "" }));
                for item in items {
                    if item.is_object() {
                        out.push_str(&format!("{indent}  -\n"));
                        put_fields(item, depth + 2, out);
                    } else {
                        out.push_str(&format!("{indent}  - {}\n", scalar(item)));
                    }
                }
            }
            _ => {
                let is_size = ["size", "fileSize", "oldSize", "bytesBefore", "bytesAfter"].contains(&key.as_str());
                let text = if is_size { size(value) } else { scalar(value) };
                out.push_str(&format!("{indent}{}: {text}\n", words(key)));
            }
        }
    }
}

/// `disk info`.
pub fn info(result: &Value) -> String {
    fields(result)
}

/// `disk check`.
pub fn check(result: &Value) -> String {
    let verdict = if result["clean"] == true { "clean\n" } else { "NOT CLEAN\n" };
    format!("{verdict}{}", fields(&result["report"]))
}

/// `disk compare`.
pub fn compare(result: &Value) -> String {
    if result["identical"] != true {
        return format!("different: the first differing byte is {}\n", scalar(&result["firstDifference"]));
    }
    if result["sameSize"] == true {
        return "identical\n".into();
    }
    let common = size(&result["commonSize"]);
    format!("identical up to {common}, where the smaller disk ends; the rest of the larger one is zeros\n")
}

/// `disk map`.
pub fn map(result: &Value) -> String {
    let mut out = format!("size: {}\nstored: {}\n", size(&result["size"]), size(&result["stored"]));
    out.push_str("         start         length  kind  depth    file offset\n");
    for extent in result["extents"].as_array().into_iter().flatten() {
        let number = |key: &str| extent[key].as_u64();
        let offset = number("fileOffset").map_or_else(|| "-".into(), |offset| offset.to_string());
        out.push_str(&format!(
            "{:>14} {:>14}  {:<5} {:>4} {:>14}\n",
            number("start").unwrap_or(0),
            number("length").unwrap_or(0),
            extent["kind"].as_str().unwrap_or("?"),
            number("depth").unwrap_or(0),
            offset,
        ));
    }
    if let Some(at) = result["cutAt"].as_u64() {
        out.push_str(&format!("… more behind {at}; the list is cut\n"));
    }
    out
}
