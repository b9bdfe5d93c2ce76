//! `settings`: what the site wrote for the slot, checked against the manifest's schema when the slot was made.

use serde_json::Value;
use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

use super::Call;

/// 2⁵³: up to here a double holds every integer.
const EXACT: f64 = 9_007_199_254_740_992.0;

pub(super) fn link(instance: &mut LinkerInstance<'_, Call>) -> wasmtime::Result<()> {
    getter(instance, "number", Value::as_f64)?;
    getter(instance, "integer", integer)?;
    getter(instance, "boolean", Value::as_bool)?;
    getter(instance, "text", |value| value.as_str().map(str::to_owned))?;
    instance.func_wrap(
        "numbers",
        |cx: StoreContextMut<'_, Call>, (key,): (String,)| Ok((list(&cx, &key, Value::as_f64),)),
    )?;
    instance.func_wrap(
        "texts",
        |cx: StoreContextMut<'_, Call>, (key,): (String,)| {
            Ok((list(&cx, &key, |value| value.as_str().map(str::to_owned)),))
        },
    )?;
    instance.func_wrap("json", |cx: StoreContextMut<'_, Call>, (): ()| {
        Ok((cx.data().context.settings.to_string(),))
    })
}

/// A function that answers with the value at a key where it has the right type.
fn getter<T>(
    instance: &mut LinkerInstance<'_, Call>,
    name: &str,
    read: fn(&Value) -> Option<T>,
) -> wasmtime::Result<()>
where
    T: wasmtime::component::Lower + 'static,
{
    instance.func_wrap(
        name,
        move |cx: StoreContextMut<'_, Call>, (key,): (String,)| {
            Ok((find(&cx, &key).and_then(read),))
        },
    )
}

fn list<T>(
    cx: &StoreContextMut<'_, Call>,
    key: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Vec<T> {
    find(cx, key)
        .and_then(Value::as_array)
        .and_then(|values| values.iter().map(read).collect())
        .unwrap_or_default()
}

/// The value at a path of members joined with `.`.
fn find<'a>(cx: &'a StoreContextMut<'_, Call>, key: &str) -> Option<&'a Value> {
    key.split('.')
        .try_fold(&cx.data().context.settings, |value, member| {
            value.get(member)
        })
}

/// JSON Schema takes `5.0` for an integer, and so do we.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        let float = value.as_f64()?;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a whole number within ±2⁵³ fits"
        )]
        (float.fract() == 0.0 && float.abs() <= EXACT).then_some(float as i64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_integers_however_they_are_written() {
        let check = |json: &str, want| assert_eq!(integer(&json.parse().unwrap()), want, "{json}");
        check("5", Some(5));
        check("5.0", Some(5));
        check("-9223372036854775808", Some(i64::MIN));
        check("5.5", None);
        check("1e300", None);
        check("\"5\"", None);
    }
}
