//! New keys for a role.

use std::path::PathBuf;

use serde::Serialize;

use crate::error::Error;
use crate::keys::{KeyStore, Signer, file_name};
use crate::metadata::Role;
use crate::repository::{Next, Repository, after};

/// What a rotation did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Rotated {
    /// Whose keys were replaced.
    pub role: Role,
    /// Files of the new keys.
    pub new: Vec<PathBuf>,
    /// Names of the files of keys that sign nothing any more.
    pub retired: Vec<String>,
}

impl Repository {
    /// Gives a role new keys, as many as it had. It takes a threshold of the root keys, and for another role than root the
    /// keys of targets, snapshot and timestamp.
    ///
    /// Metadata is first signed by the old and the new keys, which holds under either root, and then the new root comes out:
    /// a crash in between leaves a sound repository with the old keys.
    ///
    /// # Errors
    /// Keys that are not there; files.
    pub fn rotate(&mut self, role: Role, keys: &KeyStore) -> Result<Rotated, Error> {
        let of_root = keys.signers(Role::Root, &self.root)?;
        let Some(before) = self.root.roles.get(&role).cloned() else {
            return Err(Error::Value(format!("the root names no keys for {role}")));
        };
        // Nothing is made before everything that is needed has been found.
        let hands = match role {
            Role::Root => None,
            Role::Targets | Role::Snapshot | Role::Timestamp => Some(self.hands(keys)?),
        };
        let (new, paths): (Vec<Signer>, Vec<PathBuf>) = before
            .keyids
            .iter()
            .map(|_| keys.make(role))
            .collect::<Result<Vec<_>, _>>()?
            .into_iter()
            .unzip();
        let public: Vec<_> = new.iter().map(|signer| signer.public().clone()).collect();
        let mut of_root: Vec<Signer> = of_root;
        match hands {
            None => of_root.extend(new),
            Some(mut hands) => {
                match role {
                    Role::Targets => hands.targets.extend(new),
                    Role::Snapshot => hands.snapshot.extend(new),
                    Role::Timestamp | Role::Root => hands.timestamp.extend(new),
                }
                self.commit(Next::With(Vec::new()), &hands)?;
            }
        }
        self.root.assign(role, &public, before.threshold);
        self.root.version += 1;
        self.root.expires = after(self.now, self.validity.root)?;
        self.write_root(&of_root)?;
        Ok(Rotated {
            role,
            new: paths,
            retired: before.keyids.iter().map(|id| file_name(role, id)).collect(),
        })
    }
}
