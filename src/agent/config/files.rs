//! Mapping and model files from the folders that the configuration names.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::layers::unreadable;
use crate::diagnostic::{Diagnostic, Severity, Source};
use crate::lwm2m::model::Models;

/// The largest file read; mappings and object definitions are far below.
const MAX_FILE: u64 = 8 << 20;

/// Reads the TOML files of these files and folders (mappings, bootstrap profiles), in an order that
/// [`Plan::compile`](crate::mapping::Plan::compile) takes. A folder that is not there holds none.
pub fn toml_sources(paths: &[PathBuf]) -> (Vec<Source>, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let mut sources = Vec::new();
    for file in files(paths, "toml", &mut diagnostics) {
        if let Some(text) = read(&file, &mut diagnostics) {
            let file = file.display().to_string();
            sources.push(Source { file, text });
        }
    }
    (sources, diagnostics)
}

/// The built-in registry with the object files of these files and folders on top.
///
/// A file with a mistake is reported and left out; the rest counts.
pub fn models(paths: &[PathBuf]) -> (Models, Vec<Diagnostic>) {
    let mut diagnostics = Vec::new();
    let mut models = Models::builtin();
    let mut files = files(paths, "xml", &mut diagnostics);
    // The last one added counts, and the first path is to win.
    files.reverse();
    for file in files {
        let Some(text) = read(&file, &mut diagnostics) else {
            continue;
        };
        if let Err(error) = models.add_xml(&text) {
            diagnostics.push(Diagnostic::at(
                Severity::Error,
                "bad-model",
                file.display().to_string(),
                &text,
                (error.line as usize, error.column as usize),
                error.message,
                "the file is left out until it is an OMA object file (LWM2M.xsd)",
            ));
        }
    }
    (models, diagnostics)
}

/// The files themselves, and of folders those with `extension`, by name.
pub(in crate::agent) fn files(
    paths: &[PathBuf],
    extension: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => match in_folder(path, extension) {
                Ok(found) => files.extend(found),
                Err(error) => diagnostics.push(unreadable(path, &error)),
            },
            Ok(_) => files.push(path.clone()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => diagnostics.push(unreadable(path, &error)),
        }
    }
    files
}

/// The files of a folder with this extension, in the order of their names.
pub(in crate::agent) fn in_folder(folder: &Path, extension: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|found| found == extension) && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The content of a file; a mistake is reported.
pub(in crate::agent) fn read(file: &Path, diagnostics: &mut Vec<Diagnostic>) -> Option<String> {
    let too_large = std::fs::metadata(file).is_ok_and(|metadata| metadata.len() > MAX_FILE);
    let text = if too_large {
        Err(std::io::Error::new(
            ErrorKind::FileTooLarge,
            "it is larger than 8 MiB",
        ))
    } else {
        std::fs::read_to_string(file)
    };
    match text {
        Ok(text) => Some(text),
        Err(error) => {
            diagnostics.push(unreadable(file, &error));
            None
        }
    }
}
