//! One measured value.

/// The type of a value. The numbers are those of the `kind` column in `tidegate:module` and of the
/// stored blocks: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// IEEE 754 double; `bits` holds its bit pattern.
    Float = 0,
    /// Signed 64-bit integer; `bits` holds its two's complement.
    Int = 1,
    /// `bits` is 0 or 1.
    Bool = 2,
    /// `bits` is an index into the batch's `texts`.
    Text = 3,
}

impl Kind {
    /// The kind of a `kind` column's byte; `None` where no kind has that number.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Float),
            1 => Some(Self::Int),
            2 => Some(Self::Bool),
            3 => Some(Self::Text),
            _ => None,
        }
    }
}

/// How far a value can be trusted. The numbers are those of the `quality` column and never change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Quality {
    /// Measured and within what the source calls sound.
    #[default]
    Good = 0,
    /// Usable with doubt: the source or a filter marked it.
    Uncertain = 1,
    /// Not to be used as a number: not finite, or marked bad.
    Bad = 2,
}

impl Quality {
    /// The quality of a `quality` column's byte; `None` where no quality has that number.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Good),
            1 => Some(Self::Uncertain),
            2 => Some(Self::Bad),
            _ => None,
        }
    }

    /// The word used in payloads and on the page.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Uncertain => "uncertain",
            Self::Bad => "bad",
        }
    }
}

/// A measured value, borrowed from its batch where it is a text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// See [`Kind::Float`].
    Float(f64),
    /// See [`Kind::Int`].
    Int(i64),
    /// See [`Kind::Bool`].
    Bool(bool),
    /// See [`Kind::Text`].
    Text(&'a str),
}

impl Value<'_> {
    /// The value as a number for statistics: integers rounded to the nearest double, false and true as 0 and 1;
    /// `None` for a text and for what is not finite.
    #[must_use]
    pub fn as_number(self) -> Option<f64> {
        match self {
            Self::Float(value) => value.is_finite().then_some(value),
            #[expect(
                clippy::cast_precision_loss,
                reason = "statistics are doubles by definition"
            )]
            Self::Int(value) => Some(value as f64),
            Self::Bool(value) => Some(f64::from(u8::from(value))),
            Self::Text(_) => None,
        }
    }
}
