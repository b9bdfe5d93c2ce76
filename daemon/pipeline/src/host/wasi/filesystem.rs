//! `wasi:filesystem` without any directory: what is linked against it runs, and finds nothing to open.

use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, Resource, Val};

use super::super::{Call, Violation};
use super::io::resource;

/// `descriptor`: none is ever made.
#[derive(Debug)]
struct Descriptor;
/// `directory-entry-stream`: likewise.
#[derive(Debug)]
struct Entries;

/// What can be done with a descriptor.
const METHODS: [&str; 27] = [
    "read-via-stream",
    "write-via-stream",
    "append-via-stream",
    "advise",
    "sync-data",
    "get-flags",
    "get-type",
    "set-size",
    "set-times",
    "read",
    "write",
    "read-directory",
    "sync",
    "create-directory-at",
    "stat",
    "stat-at",
    "set-times-at",
    "link-at",
    "open-at",
    "readlink-at",
    "remove-directory-at",
    "rename-at",
    "symlink-at",
    "unlink-file-at",
    "is-same-object",
    "metadata-hash",
    "metadata-hash-at",
];

pub(super) fn link_types(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    resource::<Descriptor>(instance, "descriptor")?;
    resource::<Entries>(instance, "directory-entry-stream")?;
    let descriptor = METHODS
        .iter()
        .map(|name| format!("[method]descriptor.{name}"));
    let entries = "[method]directory-entry-stream.read-directory-entry".to_owned();
    for name in descriptor.chain([entries]) {
        // Not reached: no guest has a handle that it could call these with.
        instance.func_new(&name, |_, _, _, _| {
            Err(wasmtime::Error::new(Violation(
                "it uses a directory, and has none".to_owned(),
            )))
        })?;
    }
    instance.func_new("filesystem-error-code", |_, _, _, results| {
        if let Some(result) = results.first_mut() {
            *result = Val::Option(None);
        }
        Ok(())
    })
}

pub(super) fn link_preopens(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    instance.func_wrap("get-directories", |_: StoreContextMut<'_, Call>, (): ()| {
        Ok((Vec::<(Resource<Descriptor>, String)>::new(),))
    })
}
