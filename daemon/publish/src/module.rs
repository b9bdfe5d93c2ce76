//! A version of a module, with its papers.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tidegate_domain::channel::{DOCUMENT_VERSION, Name, Part, Release, Target, Version};

use crate::error::Error;
use crate::keys::KeyStore;
use crate::metadata::Info;
use crate::repository::{Next, Repository};
use crate::sbom;

/// A module that somebody has judged and wants in the repository.
#[derive(Clone, Debug)]
pub struct Offered {
    /// Its name.
    pub name: Name,
    /// Its version.
    pub version: Version,
    /// Its manifest as it was read, name and version aside.
    pub manifest: Map<String, Value>,
    /// The component.
    pub component: Vec<u8>,
    /// What it imports, by full name.
    pub imports: Vec<String>,
    /// Its golden vectors.
    pub vectors: Option<Vec<u8>>,
    /// SHA-256 of the debug file that the publisher keeps, `sha256:` and hex digits.
    pub debug: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Added {
    /// The module.
    pub name: Name,
    /// The version.
    pub version: Version,
    /// Its component's digest.
    pub digest: String,
    /// False where the very same was there already, and nothing changed.
    pub new: bool,
    /// Its targets.
    pub targets: Vec<String>,
}

impl Repository {
    /// Adds a version of a module: component, release document, vectors, bill of materials, provenance.
    ///
    /// # Errors
    /// A version that is there with other content; keys that are not there; files.
    pub fn add(&mut self, offered: Offered, keys: &KeyStore) -> Result<Added, Error> {
        let release = release(&offered)?;
        let Offered {
            name,
            version,
            component,
            vectors,
            ..
        } = &offered;
        let target = |part| Target::Module {
            name: name.clone(),
            version: version.clone(),
            part,
        };
        let added = |new, targets| Added {
            name: name.clone(),
            version: version.clone(),
            digest: release.digest.clone(),
            new,
            targets,
        };
        let mut document = pretty(&release)?;
        document.push(b'\n');
        if let Some(there) = self.read_target(&target(Part::Release))? {
            let published = Release::parse(&there)?;
            let what = if published.digest != release.digest {
                format!("another component, {}", published.digest)
            } else if there != document {
                "another manifest, other vectors or another debug file".to_owned()
            } else {
                let parts = Part::ALL.into_iter().map(|part| target(part).to_string());
                let there = parts.filter(|name| self.targets.targets.contains_key(name));
                return Ok(added(false, there.collect()));
            };
            let (name, version) = (name.to_string(), version.to_string());
            return Err(Error::VersionTaken {
                name,
                version,
                what,
            });
        }
        let hands = self.hands(keys)?;
        let mut files = vec![
            (target(Part::Component), component.clone()),
            (target(Part::Release), document),
            (
                target(Part::Sbom),
                pretty(&sbom::bill(&offered, &release, self.now)?)?,
            ),
            (target(Part::Provenance), pretty(&provenance(&release))?),
        ];
        files.extend(
            vectors
                .clone()
                .map(|vectors| (target(Part::Vectors), vectors)),
        );
        let names = files.iter().map(|(target, _)| target.to_string()).collect();
        self.commit(Next::With(files), &hands)?;
        Ok(added(true, names))
    }
}

/// The release document, which says everything that the manifest says where both do.
fn release(offered: &Offered) -> Result<Release, Error> {
    let info = Info::of(&offered.component);
    let digest = format!("sha256:{}", info.sha256());
    let mut manifest = offered.manifest.clone();
    manifest.insert("name".to_owned(), offered.name.as_str().into());
    manifest.insert("version".to_owned(), offered.version.to_string().into());
    manifest.insert("digest".to_owned(), digest.clone().into());
    let text = |key: &str| manifest.get(key).and_then(Value::as_str);
    let grants = manifest.get("grants").and_then(Value::as_array);
    let grants: BTreeSet<String> = grants
        .into_iter()
        .flatten()
        .filter_map(|grant| grant.as_str().map(ToOwned::to_owned))
        .collect();
    let schema = manifest
        .get("state-schema")
        .and_then(Value::as_u64)
        .unwrap_or(1);
    let limits = manifest.get("limits").and_then(Value::as_object);
    let release = Release {
        v: DOCUMENT_VERSION,
        name: offered.name.clone(),
        version: offered.version.clone(),
        digest,
        bytes: info.length,
        world: text("world").unwrap_or_default().to_owned(),
        // Sorted in both places.
        grants: grants.clone(),
        limits: limits.cloned().unwrap_or_default(),
        state_schema: u32::try_from(schema)
            .map_err(|_| Error::Value(format!("a state schema of {schema}")))?,
        minimum_daemon: text("min-daemon").map(str::parse).transpose()?,
        vectors: offered
            .vectors
            .as_ref()
            .map(|vectors| format!("sha256:{}", Info::of(vectors).sha256())),
        debug: offered.debug.clone(),
        manifest: {
            manifest.insert("grants".to_owned(), grants.into_iter().collect());
            manifest
        },
    };
    // As a gateway will read it.
    Release::parse(&pretty(&release)?)?;
    Ok(release)
}

/// An in-toto statement, version 1 (<https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md>), with SLSA
/// provenance (<https://slsa.dev/spec/v1.0/provenance>). It says what this command did and knows: that these bytes were
/// added under this name. Who compiled them from which sources it does not know, and does not say.
fn provenance(release: &Release) -> Value {
    let Release { name, version, .. } = release;
    let hex = release.digest.trim_start_matches("sha256:");
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": format!("modules/{name}/{version}.wasm"), "digest": {"sha256": hex}}],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": "https://github.com/tidegate/tidegate/blob/main/modules/README.md#publishing",
                "externalParameters": {"name": name, "version": version},
                "resolvedDependencies": [],
            },
            "runDetails": {
                "builder": {"id": "tidegate repo add", "version": {"tidegate": env!("CARGO_PKG_VERSION")}},
            },
        },
    })
}

pub(crate) fn pretty(value: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec_pretty(value)
        .map_err(|error| Error::Value(format!("a document that is no JSON: {error}")))
}
