//! `test`: builds every test once, runs them part by part, and says what each part took.

use std::collections::BTreeMap;
use std::io::{BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Message, Metadata};

use crate::{command, guests, miri, packages, workspace};

/// One test executable.
struct TestProgram {
    crate_name: String,
    target: String,
    folder: PathBuf,
    executable: PathBuf,
}

/// Runs all tests, or those of the named parts and test programs.
pub fn run(long: bool, only: &[String]) -> Result<()> {
    packages::install_missing()?;
    let mut times = Times::default();
    let metadata = workspace::metadata(false)?;
    let known: Vec<String> = metadata.workspace_packages().into_iter().map(workspace::part).collect();
    let wanted = |part: &str| only.is_empty() || only.iter().any(|name| name == part);
    // What is no part may be the name of a test program, which is known when all are built.
    let named = || only.iter().filter(|name| !known.contains(name));
    if known.iter().any(|part| part == "doors") && (wanted("doors") || wanted("worker") || named().count() > 0) {
        times.measure("guests", || guests::run(&[]))?;
        // The programs run each other, so they stand side by side before the first test starts one.
        times.measure("programs", || {
            command::run(command::cargo().args(["build", "--profile", "ci", "--workspace", "--bins"]))
        })?;
    }
    let programs = times.measure("build", || build(&metadata))?;
    let mut totals = Totals::default();
    let all = || programs.values().flatten();
    if let Some(wrong) = named().find(|name| !all().any(|program| program.target == **name)) {
        let parts = sorted(known.clone()).join(", ");
        bail!("there is no part and no test program {wrong}; the parts are {parts}");
    }
    for (part, programs) in &programs {
        let chosen = |program: &&TestProgram| wanted(part) || named().any(|name| *name == program.target);
        let chosen: Vec<_> = programs.iter().filter(chosen).collect();
        if !chosen.is_empty() {
            times.measure(part, || chosen.iter().try_for_each(|program| totals.run(program, long)))?;
        }
    }
    if long && wanted("foundation") {
        times.measure("miri", miri::run)?;
    }
    times.print();
    println!("{} passed, {} failed", totals.passed, totals.failed);
    if !totals.failed_programs.is_empty() {
        bail!("tests failed in {}", totals.failed_programs.join(", "));
    }
    Ok(())
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    names
}

/// Builds all test programs with one cargo call, so that the features of dependencies are resolved once.
fn build(metadata: &Metadata) -> Result<BTreeMap<String, Vec<TestProgram>>> {
    let mut cargo = command::cargo();
    cargo.args(["test", "--profile", "ci", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"]);
    let mut child =
        cargo.current_dir(workspace::root()).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let output = BufReader::new(child.stdout.take().context("cargo's output is a pipe")?);
    let mut programs: BTreeMap<String, Vec<TestProgram>> = BTreeMap::new();
    for message in Message::parse_stream(output) {
        let Message::CompilerArtifact(artifact) = message.context("cannot read cargo's messages")? else { continue };
        let Some(executable) = artifact.executable.filter(|_| artifact.profile.test) else { continue };
        let package = metadata.packages.iter().find(|package| package.id == artifact.package_id);
        let package = package.context("a test program belongs to a package")?;
        let folder = package.manifest_path.parent().context("a manifest stands in a folder")?;
        programs.entry(workspace::part(package)).or_default().push(TestProgram {
            crate_name: package.name.to_string(),
            target: artifact.target.name.clone(),
            folder: folder.as_std_path().to_path_buf(),
            executable: executable.into_std_path_buf(),
        });
    }
    if !child.wait()?.success() {
        bail!("the tests do not build");
    }
    for list in programs.values_mut() {
        list.sort_by(|a, b| (&a.crate_name, &a.target).cmp(&(&b.crate_name, &b.target)));
    }
    Ok(programs)
}

#[derive(Default)]
struct Totals {
    passed: u64,
    failed: u64,
    failed_programs: Vec<String>,
}

impl Totals {
    /// Runs one program, passes on what it prints, and counts its closing line.
    fn run(&mut self, program: &TestProgram, long: bool) -> Result<()> {
        println!("\n{} :: {}", program.crate_name, program.target);
        let mut command = Command::new(&program.executable);
        command.current_dir(&program.folder).env("CARGO_MANIFEST_DIR", &program.folder);
        if long {
            command.env("BULKHEAD_LONG", "1");
        }
        let output = command.stderr(Stdio::inherit()).output();
        let output = output.with_context(|| format!("cannot start {}", program.executable.display()))?;
        std::io::stdout().write_all(&output.stdout)?;
        let text = String::from_utf8_lossy(&output.stdout);
        for line in text.lines().filter(|line| line.starts_with("test result:")) {
            self.passed += count(line, "passed");
            self.failed += count(line, "failed");
        }
        if !output.status.success() {
            self.failed_programs.push(format!("{}::{} ({})", program.crate_name, program.target, output.status));
        }
        Ok(())
    }
}

/// The number before `word` in cargo's closing line.
fn count(line: &str, word: &str) -> u64 {
    let words: Vec<&str> = line.split([' ', ';']).filter(|part| !part.is_empty()).collect();
    let number = words.windows(2).find(|pair| pair[1] == word).and_then(|pair| pair[0].parse().ok());
    number.unwrap_or(0)
}

/// How long each part took, in the order in which they ran.
#[derive(Default)]
struct Times(Vec<(String, Duration)>);

impl Times {
    #[allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measuring real time is the purpose here")]
    fn measure<T>(&mut self, part: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = std::time::Instant::now();
        let result = work();
        self.0.push((part.to_owned(), start.elapsed()));
        result
    }

    fn print(&self) {
        println!("\ntime by part");
        for (part, time) in &self.0 {
            println!("  {part:<12} {:>7.1} s", time.as_secs_f64());
        }
        let total: Duration = self.0.iter().map(|(_, time)| *time).sum();
        println!("  {:<12} {:>7.1} s", "total", total.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn the_closing_line_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!(count(line, "passed"), 12);
        assert_eq!(count(line, "failed"), 3);
    }
}
