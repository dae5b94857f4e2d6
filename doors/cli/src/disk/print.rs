//! Results as text for people. `--json` shows the same values as they are, and all of them.

use crate::exit::Failure;
use anyhow::Context;
use bulkhead_vm_description::Size;
use serde_json::Value;
use std::io::Write as _;
use std::process::ExitCode;

/// Keys whose values are bytes.
const SIZES: [&str; 9] = [
    "size",
    "fileSize",
    "oldSize",
    "bytesBefore",
    "bytesAfter",
    "blockSize",
    "unusedBytes",
    "logicalSectorSize",
    "physicalSectorSize",
];

/// Prints a result as JSON or through `text`.
///
/// # Errors
/// Standard output is closed.
pub fn show(result: &Value, json: bool, text: fn(&Value) -> String) -> Result<ExitCode, Failure> {
    let text = if json { format!("{result:#}\n") } else { text(result) };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the result")?;
    Ok(ExitCode::SUCCESS)
}

/// Bytes in the largest unit that leaves a number below 1024, with the exact number where that is rounded.
fn size(value: &Value) -> String {
    let Some(bytes) = value.as_u64() else { return "-".into() };
    let exact = Size::from_bytes(bytes).to_string();
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    if exact != bytes.to_string() && exact.len() <= "2040G".len() {
        return exact;
    }
    let unit = (bytes.ilog2() / 10).min(5);
    let shown = bytes as f64 / (1u64 << (unit * 10)) as f64;
    format!("{shown:.1}{} ({bytes} bytes)", ["", "K", "M", "G", "T", "P"][unit as usize])
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
        let (indent, name) = ("  ".repeat(depth), words(key));
        match value {
            Value::Object(_) => {
                out.push_str(&format!("{indent}{name}:\n"));
                put_fields(value, depth + 1, out);
            }
            Value::Array(items) if items.is_empty() => out.push_str(&format!("{indent}{name}: none\n")),
            Value::Array(items) => {
                out.push_str(&format!("{indent}{name}:\n"));
                put_items(items, depth + 1, out);
            }
            _ if SIZES.contains(&key.as_str()) => out.push_str(&format!("{indent}{name}: {}\n", size(value))),
            _ => out.push_str(&format!("{indent}{name}: {}\n", scalar(value))),
        }
    }
}

fn put_items(items: &[Value], depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    for item in items {
        if item.is_object() {
            out.push_str(&format!("{indent}-\n"));
            put_fields(item, depth + 1, out);
        } else {
            out.push_str(&format!("{indent}- {}\n", scalar(item)));
        }
    }
}

/// `disk info`: what people look for; the other header fields are in the JSON.
pub fn info(result: &Value) -> String {
    let mut out = image(result, "");
    for (parent, depth) in result["parents"].as_array().into_iter().flatten().zip(1..) {
        let by = parent["locator"].as_str().map_or_else(|| "its file name".into(), |said| format!("“{said}”"));
        out.push_str(&format!("parent {depth}, found by {by}:\n{}", image(&parent["info"], "  ")));
    }
    out
}

/// Rows of `disk info`: what it is called, and where it is.
const INFO: &[(&str, &[&str])] = &[
    ("block size", &["/details/blockSize", "/details/sparse/blockSize"]),
    ("logical sector", &["/details/logicalSectorSize"]),
    ("physical sector", &["/details/physicalSectorSize"]),
    ("identity", &["/details/id", "/details/virtualDiskId"]),
    ("parent id", &["/details/sparse/parentId", "/details/parent/linkage", "/details/parent/id"]),
    ("creator", &["/details/creator"]),
    ("log to replay", &["/details/logDirty"]),
];

fn image(info: &Value, indent: &str) -> String {
    let mut rows = vec![
        ("path", scalar(&info["path"])),
        ("format", format!("{}, {}", scalar(&info["format"]), scalar(&info["kind"]))),
        ("size", size(&info["size"])),
        ("file size", size(&info["fileSize"])),
    ];
    for (name, places) in INFO {
        let found = places.iter().filter_map(|place| info.pointer(place)).find(|value| !value.is_null());
        let Some(value) = found else { continue };
        match *name {
            "block size" if value == 0 => {}
            "block size" | "logical sector" | "physical sector" => rows.push((name, size(value))),
            "log to replay" if value == false => {}
            _ => rows.push((name, scalar(value).trim().to_owned())),
        }
    }
    // A child of a VHDX knows it by this; a child of a VHD by its identity.
    let mut headers = info["details"]["headers"].as_array().into_iter().flatten();
    if let Some(header) = headers.find(|header| header["current"] == true) {
        rows.push(("link id", scalar(&header["dataWriteGuid"])));
    }
    for warning in info["details"]["warnings"].as_array().into_iter().flatten() {
        rows.push(("warning", scalar(warning)));
    }
    rows.into_iter().map(|(name, value)| format!("{indent}{name}: {value}\n")).collect()
}

/// `disk check`.
pub fn check(result: &Value) -> String {
    let report = &result["report"];
    let verdict = match (result["clean"] == true, has_findings(report)) {
        (false, _) => "NOT CLEAN",
        (true, true) => "clean, with warnings",
        (true, false) => "clean",
    };
    let mut out = format!("{verdict}\n{}", fields(report));
    if has_findings(&result["repaired"]) {
        out.push_str(&format!("before the repair:\n{}", fields(&result["repaired"])));
    }
    out + &chain(&result["chain"])
}

/// Whether a report, of either format, names anything.
fn has_findings(report: &Value) -> bool {
    ["problems", "findings"].iter().any(|key| report[key].as_array().is_some_and(|found| !found.is_empty()))
}

/// The doctor's words about each link.
fn chain(chain: &Value) -> String {
    let Some(links) = chain["links"].as_array() else { return String::new() };
    let verdict = if chain["whole"] == true { "whole" } else { "BROKEN" };
    let mut out = format!("chain: {verdict}, {} disks\n", chain["depth"]);
    for link in links {
        out.push_str(&format!(
            "  {}\n    {}: {}\n",
            scalar(&link["child"]),
            scalar(&link["finding"]),
            scalar(&link["text"])
        ));
        for remedy in link["remedies"].as_array().into_iter().flatten() {
            let (child, parent) = (scalar(&link["child"]), scalar(remedy));
            out.push_str(&format!("    found it: `bulkhead disk set-parent {child} {parent}` mends this\n"));
        }
    }
    if chain["deep"] == true {
        out.push_str("  the chain is long: merging some of it saves memory and opening time\n");
    }
    out
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

/// `disk bitmap`.
pub fn bitmaps(result: &Value) -> String {
    let mut out = String::new();
    for bitmap in result["bitmaps"].as_array().into_iter().flatten() {
        let state = if bitmap["tracking"] == true { "tracking" } else { "frozen" };
        out.push_str(&format!("{}: {state}, {} changed\n", scalar(&bitmap["name"]), size(&bitmap["changed"])));
    }
    for range in result["ranges"].as_array().into_iter().flatten() {
        out.push_str(&format!("{:>14} {:>14}\n", scalar(&range["start"]), scalar(&range["length"])));
    }
    if let Some(at) = result["cutAt"].as_u64() {
        out.push_str(&format!("… more behind {at}; the list is cut\n"));
    }
    if out.is_empty() {
        let nothing = if result["ranges"].is_array() { "nothing changed" } else { "no bitmaps" };
        out.push_str(&format!("{nothing}\n"));
    }
    out
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

/// `disk partitions`.
pub fn partitions(result: &Value) -> String {
    let partitions = result["partitions"].as_array().map_or(&[][..], Vec::as_slice);
    let mut out = format!("table: {}\n", scalar(&result["scheme"]));
    for part in partitions {
        let (number, kind, name) = (&part["number"], scalar(&part["kind"]), scalar(&part["name"]));
        let name = if name.is_empty() { name } else { format!(" “{name}”") };
        out.push_str(&format!(
            "partition {number}: {} at {}, {kind}{name}\n",
            size(&part["size"]),
            size(&part["start"])
        ));
        if part["alignedTo"].as_u64().is_some_and(|aligned| aligned < 1 << 20) {
            out.push_str(&format!("  aligned to {} only; 1M is right for every device\n", size(&part["alignedTo"])));
        }
    }
    for problem in result["problems"].as_array().into_iter().flatten() {
        out.push_str(&format!("problem: {}\n", scalar(problem)));
    }
    out
}

/// `disk mount`, when it is there.
pub fn mounted(result: &Value) -> String {
    let point = scalar(&result["mountpoint"]);
    let mut out = format!("mounted at {point}; Ctrl-C or `bulkhead disk unmount {point}` unmounts\n");
    for file in result["files"].as_array().into_iter().flatten() {
        out.push_str(&format!("  {} {}\n", scalar(&file["name"]), size(&file["size"])));
    }
    out
}
