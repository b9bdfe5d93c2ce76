//! Whose fault it is that an epoch cannot be tried: the one place where errors of all crates are told apart.
//!
//! What is refused is not tried again, so only what would be the same on every try is the module's fault. What nobody here knows
//! may be either's, and is tried a bounded number of times.

use tidegate_deploy::{Kind, Refusal};
use tidegate_domain::install::{Blame, Failure, Stage};
use tidegate_pipeline::manifest::ManifestError;
use tidegate_pipeline::test_vectors::VectorError;
use tidegate_pipeline::{LoadError, ModuleError, PipelineError, RuntimeError, SlotError};
use tidegate_store::ReadError;

use crate::modules::NoModule;

/// What lies on this device is not what it should be. It is fetched again.
#[derive(Debug, thiserror::Error)]
#[error("{0} on the disk; the next look at the repository fetches it again")]
pub(crate) struct Damaged(pub(crate) String);

/// A failure at some stage, with the errors that led to it.
pub(crate) fn failure(stage: Stage, error: &anyhow::Error) -> Failure {
    Failure {
        stage,
        blame: error.chain().find_map(blame).unwrap_or(Blame::Unclear),
        why: format!("{error:#}"),
    }
}

/// What a module did itself.
pub(crate) fn of_module(stage: Stage, why: String) -> Failure {
    Failure {
        stage,
        blame: Blame::Module,
        why,
    }
}

/// What kept a module from being tried that is nobody's but the device's.
pub(crate) fn of_device(stage: Stage, why: String) -> Failure {
    Failure {
        stage,
        blame: Blame::Device,
        why,
    }
}

/// What one error says of it; `None` where that is for its source to say.
fn blame(error: &(dyn std::error::Error + 'static)) -> Option<Blame> {
    if let Some(error) = error.downcast_ref::<ModuleError>() {
        return match error {
            ModuleError::Digest { .. } | ModuleError::World { .. } => Some(Blame::Module),
            ModuleError::Load { source, .. } => Some(of_load(source)),
        };
    }
    if let Some(error) = error.downcast_ref::<LoadError>() {
        return Some(of_load(error));
    }
    if let Some(error) = error.downcast_ref::<Refusal>() {
        return Some(match error.kind {
            Kind::Local | Kind::Fetch => Blame::Device,
            Kind::Malformed
            | Kind::Signatures
            | Kind::Rollback
            | Kind::Mixed
            | Kind::Expired
            | Kind::Content
            | Kind::Name
            | Kind::Channel => Blame::Module,
        });
    }
    if error.is::<PipelineError>()
        || error.is::<SlotError>()
        || error.is::<ManifestError>()
        || error.is::<VectorError>()
        || error.is::<NoModule>()
    {
        return Some(Blame::Module);
    }
    if error.is::<Damaged>()
        || error.is::<ReadError>()
        || error.is::<RuntimeError>()
        || error.is::<std::io::Error>()
    {
        return Some(Blame::Device);
    }
    None
}

fn of_load(error: &LoadError) -> Blame {
    match error {
        LoadError::Inspect(_) | LoadError::Compile { .. } | LoadError::ArtefactSize { .. } => {
            Blame::Module
        }
        LoadError::Spawn { .. } | LoadError::Scratch(_) | LoadError::CompilerMeans { .. } => {
            Blame::Device
        }
        // A slow or starved device does the same to a sound module as a hostile module does to a sound device.
        LoadError::CompileTime { .. } | LoadError::CompilerEnded { .. } | LoadError::Load(_) => {
            Blame::Unclear
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    use anyhow::{Context, anyhow};

    use super::*;

    /// As it arrives: with words around it.
    fn blamed(error: impl Into<anyhow::Error>) -> Blame {
        let error = Err::<(), _>(error.into());
        let error = error.context("pipeline p").context("loading").unwrap_err();
        let failure = failure(Stage::Loading, &error);
        assert!(failure.why.starts_with("loading: pipeline p: "));
        failure.blame
    }

    fn load(source: LoadError) -> ModuleError {
        ModuleError::Load {
            name: "m".to_owned(),
            source,
        }
    }

    #[test]
    fn only_what_would_be_the_same_on_every_try_is_the_modules_fault() {
        let text = || "as it says".to_owned();
        let io = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let not_wasm = tidegate_pipeline::inspect(b"no component").unwrap_err();
        assert_eq!(blamed(load(not_wasm.into())), Blame::Module);
        assert_eq!(
            blamed(load(LoadError::Compile { detail: text() })),
            Blame::Module
        );
        let (got, limit) = (2, 1);
        assert_eq!(
            blamed(load(LoadError::ArtefactSize { got, limit })),
            Blame::Module
        );
        assert_eq!(blamed(SlotError::Name), Blame::Module);
        assert_eq!(blamed(NoModule(text())), Blame::Module);

        let path = "/usr/bin/tidegate".into();
        let spawn = LoadError::Spawn { path, source: io() };
        assert_eq!(blamed(load(spawn)), Blame::Device);
        assert_eq!(blamed(load(LoadError::Scratch(io()))), Blame::Device);
        assert_eq!(
            blamed(load(LoadError::CompilerMeans { detail: text() })),
            Blame::Device
        );
        assert_eq!(blamed(io()), Blame::Device);
        assert_eq!(blamed(Damaged(text())), Blame::Device);
        let refusal = |kind| Refusal {
            kind,
            file: text(),
            reason: text(),
            help: text(),
        };
        assert_eq!(blamed(refusal(Kind::Local)), Blame::Device);
        assert_eq!(blamed(refusal(Kind::Malformed)), Blame::Module);

        let limit = Duration::from_secs(60);
        assert_eq!(
            blamed(load(LoadError::CompileTime { limit })),
            Blame::Unclear
        );
        // SIGKILL: the kernel's, for memory, or somebody's.
        let status = ExitStatus::from_raw(9);
        let killed = LoadError::CompilerEnded {
            status,
            detail: text(),
        };
        assert_eq!(blamed(load(killed)), Blame::Unclear);
        assert_eq!(blamed(anyhow!("nobody knows")), Blame::Unclear);
    }
}
