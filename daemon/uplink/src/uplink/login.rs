//! Name and password of a connection.

use std::io::Read;
use std::path::Path;

use tidegate_domain::delivery::Settled;
use tokio::task;

use super::{MqttUplink, UplinkError};
use crate::config::Credentials;
use crate::link::Login;

/// The largest password file in bytes; a larger one is the wrong file.
const PASSWORD_FILE: u64 = 64 * 1024;

impl<T: From<Vec<Settled>> + Send> MqttUplink<T> {
    /// User name and password for the next connection, or why there are none.
    pub(super) async fn login(&self) -> Result<Result<Option<Login>, String>, UplinkError> {
        let Some(Credentials {
            username,
            password_file,
        }) = self.config.credentials.clone()
        else {
            return Ok(Ok(None));
        };
        let read = task::spawn_blocking(move || {
            // An empty password is sent as none.
            let password = password_file.map_or(Ok(String::new()), |file| read_password(&file))?;
            Ok(Some(Login { username, password }))
        });
        read.await.map_err(|source| self.panicked(source))
    }
}

fn read_password(path: &Path) -> Result<String, String> {
    let shown = path.display();
    let mut text = String::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(PASSWORD_FILE + 1).read_to_string(&mut text));
    match read {
        Err(error) => Err(format!("password file {shown}: {error}")),
        Ok(length) if u64::try_from(length).is_ok_and(|length| length > PASSWORD_FILE) => Err(
            format!("password file {shown}: larger than {PASSWORD_FILE} bytes"),
        ),
        Ok(_) => Ok(text.trim_end_matches(['\r', '\n']).to_owned()),
    }
}
