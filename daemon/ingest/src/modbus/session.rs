//! Single values, for an engineer on site.

use super::client::{Client, ClientError, Heard};
use super::config::ModbusLine;
use super::map::{Point, Read, Table, WriteError};
use super::pdu::{Answer, Request, bit, exception, registers};

/// An open line for single questions.
pub struct Session {
    client: Client,
    retries: u32,
    quarantine: std::time::Duration,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The line.
    #[error("{0}")]
    Line(String),
    /// The slave is silent.
    #[error("slave {unit} does not answer: check its address, the wires, speed and parity")]
    Silent {
        /// Its address.
        unit: u8,
    },
    /// What came is damaged.
    #[error(
        "what comes from slave {unit} is damaged: check speed and parity, and whether two slaves have one address"
    )]
    Garbled {
        /// Its address.
        unit: u8,
    },
    /// It refuses.
    #[error("{reason}")]
    Exception {
        /// In words.
        reason: &'static str,
    },
    /// What was to be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The table cannot be written.
    #[error("the table `{table}` cannot be written: coil and holding can")]
    ReadOnly {
        /// Which.
        table: &'static str,
    },
}

impl From<ClientError> for SessionError {
    fn from(error: ClientError) -> Self {
        Self::Line(error.to_string())
    }
}

impl Session {
    /// Opens the line.
    ///
    /// # Errors
    /// When it cannot be opened; a line that the gateway reads is in use.
    pub async fn open(line: &ModbusLine) -> Result<Self, SessionError> {
        Ok(Self {
            client: Client::open(line).await?,
            retries: line.retries,
            quarantine: line.quarantine,
        })
    }

    /// Reads a value.
    ///
    /// # Errors
    /// When the slave does not give it.
    pub async fn read(
        &mut self,
        unit: u8,
        table: Table,
        point: &Point,
    ) -> Result<Read, SessionError> {
        let count = point.kind.registers();
        let request = Request::Read {
            table,
            address: point.address,
            count,
        };
        let data = match self.ask(unit, &request).await? {
            Answer::Data(data) => data,
            Answer::Written => return Err(SessionError::Garbled { unit }),
            Answer::Exception(code) => {
                return Err(SessionError::Exception {
                    reason: exception(code),
                });
            }
        };
        if table.is_bits() {
            return Ok(Point::bit(bit(&data, 0)));
        }
        Ok(point.read(&registers(&data, 0, usize::from(count))))
    }

    /// Writes a value.
    ///
    /// # Errors
    /// When it is none for this register, or the slave does not take it.
    pub async fn write(
        &mut self,
        unit: u8,
        table: Table,
        point: &Point,
        text: &str,
    ) -> Result<(), SessionError> {
        let values = point.write(text)?;
        let request = match table {
            Table::Coil => Request::WriteCoil {
                address: point.address,
                on: values.first().is_some_and(|value| *value != 0),
            },
            Table::Holding => Request::WriteRegisters {
                address: point.address,
                values,
            },
            Table::Discrete | Table::Input => {
                return Err(SessionError::ReadOnly {
                    table: table.as_str(),
                });
            }
        };
        match self.ask(unit, &request).await? {
            Answer::Written => Ok(()),
            Answer::Data(_) => Err(SessionError::Garbled { unit }),
            Answer::Exception(code) => Err(SessionError::Exception {
                reason: exception(code),
            }),
        }
    }

    /// Asks again where the slave is silent; the same value written twice is the same value.
    async fn ask(&mut self, unit: u8, request: &Request) -> Result<Answer, SessionError> {
        let mut attempt = 0;
        loop {
            let error = match self.client.ask(unit, request).await? {
                Heard::Answer(answer) => return Ok(answer),
                Heard::Silent => SessionError::Silent { unit },
                Heard::Garbled => SessionError::Garbled { unit },
            };
            if attempt == self.retries {
                return Err(error);
            }
            attempt += 1;
            tokio::time::sleep(self.quarantine).await;
        }
    }
}
