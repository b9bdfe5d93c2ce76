//! A guest that uses the directory that a site gives it as its setting `behaviour` says, through the bindings of the crate
//! `wasip2`, which nobody here wrote.

use tidegate_sdk::{Batch, Fault, Output, Quality, settings};
use wasip2::filesystem::preopens;
use wasip2::filesystem::types::{
    Descriptor, DescriptorFlags, ErrorCode, OpenFlags, PathFlags, filesystem_error_code,
};
use wasip2::io::streams::StreamError;

tidegate_sdk::filter!(reader);

const READ: DescriptorFlags = DescriptorFlags::READ;
const FOLLOW: PathFlags = PathFlags::SYMLINK_FOLLOW;

fn reader(batch: &Batch, out: &mut Output) -> Result<(), Fault> {
    let fault = |code: ErrorCode| Fault::new(code.name());
    let mut directories = preopens::get_directories().into_iter();
    let (Some((directory, path)), None) = (directories.next(), directories.next()) else {
        return Err("there is not one directory".into());
    };
    if path != "/calibration" {
        return Err(format!("the directory is {path}").into());
    }
    let open = |path: &str| directory.open_at(FOLLOW, path, OpenFlags::empty(), READ);
    match settings::text("behaviour").as_deref() {
        Some("try") => {
            let time = batch.rows().next().map_or(0, |row| row.time());
            for (name, outcome) in attempts(&directory) {
                let told = outcome.unwrap_or_else(|code| code.name().to_owned());
                out.add(name, time, told.as_str(), Quality::Good);
            }
            Ok(())
        }
        Some("hoard") => loop {
            std::mem::forget(open("factor").map_err(fault)?);
        },
        Some("gulp") => {
            let file = open("sub/large").map_err(fault)?;
            let stream = file.read_via_stream(0).map_err(fault)?;
            // Read by the gateway, without the memory that it would take here.
            loop {
                let skipped = stream.blocking_skip(1 << 30);
                skipped.map_err(|_| Fault::new("it has an end"))?;
            }
        }
        Some("endlessly") => loop {
            directory.stat_at(FOLLOW, "factor").map_err(fault)?;
        },
        Some(_) | None => Ok(()),
    }
}

/// Everything that it can and cannot do, with what came of it.
fn attempts(directory: &Descriptor) -> Vec<(&'static str, Result<String, ErrorCode>)> {
    let write = READ | DescriptorFlags::WRITE;
    let created = directory.open_at(FOLLOW, "made", OpenFlags::CREATE, write);
    let truncated = directory.open_at(FOLLOW, "factor", OpenFlags::TRUNCATE, READ);
    let written = directory
        .open_at(FOLLOW, "factor", OpenFlags::empty(), READ)
        .and_then(|file| file.write(b"9", 0));
    let appended = directory
        .open_at(FOLLOW, "factor", OpenFlags::empty(), READ)
        .and_then(|file| file.append_via_stream());
    vec![
        ("read", read(directory, "factor")),
        ("streamed", streamed(directory, "factor")),
        ("deep", read(directory, "sub/deep")),
        ("inside", read(directory, "inside")),
        ("names", names(directory)),
        ("size", size(directory, "factor")),
        ("above", read(directory, "../secret")),
        ("around", read(directory, "sub/../../secret")),
        ("absolute", read(directory, "/etc/passwd")),
        ("outside", read(directory, "outside")),
        ("peeked", size(directory, "../secret")),
        ("pipe", read(directory, "pipe")),
        ("absent", read(directory, "absent")),
        ("created", created.map(|_| "made".to_owned())),
        ("truncated", truncated.map(|_| "cut".to_owned())),
        ("written", written.map(|bytes| bytes.to_string())),
        ("appended", appended.map(|_| "opened".to_owned())),
        ("removed", done(directory.unlink_file_at("factor"))),
        ("directory", done(directory.create_directory_at("made"))),
        (
            "renamed",
            done(directory.rename_at("factor", directory, "made")),
        ),
        ("linked", done(directory.symlink_at("factor", "made"))),
    ]
}

fn done(result: Result<(), ErrorCode>) -> Result<String, ErrorCode> {
    result.map(|()| "done".to_owned())
}

fn read(directory: &Descriptor, path: &str) -> Result<String, ErrorCode> {
    let file = directory.open_at(FOLLOW, path, OpenFlags::empty(), READ)?;
    let (bytes, _) = file.read(100, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn streamed(directory: &Descriptor, path: &str) -> Result<String, ErrorCode> {
    let file = directory.open_at(FOLLOW, path, OpenFlags::empty(), READ)?;
    let stream = file.read_via_stream(0)?;
    let mut bytes = Vec::new();
    loop {
        match stream.blocking_read(2) {
            Ok(more) => bytes.extend(more),
            Err(StreamError::Closed) => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
            Err(StreamError::LastOperationFailed(error)) => {
                return Err(filesystem_error_code(&error).unwrap_or(ErrorCode::Io));
            }
        }
    }
}

fn names(directory: &Descriptor) -> Result<String, ErrorCode> {
    let entries = directory.read_directory()?;
    let mut names = Vec::new();
    while let Some(entry) = entries.read_directory_entry()? {
        names.push(entry.name);
    }
    Ok(names.join(" "))
}

fn size(directory: &Descriptor, path: &str) -> Result<String, ErrorCode> {
    Ok(directory.stat_at(FOLLOW, path)?.size.to_string())
}
