//! Units, and how a number in one becomes a number in another.
//!
//! The symbols are those of SenML (RFC 8428 §12.1, RFC 8798), and beside them what people write and
//! the objects of the registry say. A unit that is not here is a label, nothing more.

/// A unit: so many of it, with `add` put before, times `times` over `over`, are so many of the first
/// unit of its dimension. Kept apart so that whole factors stay exact.
#[derive(Debug, PartialEq)]
struct Unit {
    symbol: &'static str,
    dimension: Dimension,
    add: f64,
    times: f64,
    over: f64,
}

/// What is measured. Units of one dimension become each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dimension {
    Length,
    Area,
    Volume,
    Mass,
    Time,
    Frequency,
    Temperature,
    Angle,
    Speed,
    Flow,
    Density,
    Pressure,
    Energy,
    ApparentEnergy,
    ReactiveEnergy,
    Power,
    ApparentPower,
    ReactivePower,
    Current,
    Voltage,
    Charge,
    Resistance,
    Ratio,
    Data,
    DataRate,
    /// Of a kind of its own: becomes nothing else.
    Other(u8),
}

impl Dimension {
    const fn name(self) -> &'static str {
        match self {
            Self::Length => "a length",
            Self::Area => "an area",
            Self::Volume => "a volume",
            Self::Mass => "a mass",
            Self::Time => "a time",
            Self::Frequency => "a frequency",
            Self::Temperature => "a temperature",
            Self::Angle => "an angle",
            Self::Speed => "a speed",
            Self::Flow => "a flow",
            Self::Density => "a density",
            Self::Pressure => "a pressure",
            Self::Energy => "an energy",
            Self::ApparentEnergy => "an apparent energy",
            Self::ReactiveEnergy => "a reactive energy",
            Self::Power => "a power",
            Self::ApparentPower => "an apparent power",
            Self::ReactivePower => "a reactive power",
            Self::Current => "a current",
            Self::Voltage => "a voltage",
            Self::Charge => "a charge",
            Self::Resistance => "a resistance",
            Self::Ratio => "a ratio",
            Self::Data => "an amount of data",
            Self::DataRate => "a data rate",
            Self::Other(_) => "of a kind of its own",
        }
    }
}

const fn unit(symbol: &'static str, dimension: Dimension, times: f64, over: f64) -> Unit {
    Unit {
        symbol,
        dimension,
        add: 0.0,
        times,
        over,
    }
}

const fn warmth(symbol: &'static str, add: f64, times: f64, over: f64) -> Unit {
    Unit {
        symbol,
        dimension: Dimension::Temperature,
        add,
        times,
        over,
    }
}

const UNITS: &[Unit] = {
    use Dimension::{
        Angle, ApparentEnergy, ApparentPower, Area, Charge, Current, Data, DataRate, Density,
        Energy, Flow, Frequency, Length, Mass, Other, Power, Pressure, Ratio, ReactiveEnergy,
        ReactivePower, Resistance, Speed, Time, Voltage, Volume,
    };
    &[
        unit("m", Length, 1.0, 1.0),
        unit("km", Length, 1e3, 1.0),
        unit("cm", Length, 1.0, 100.0),
        unit("mm", Length, 1.0, 1e3),
        unit("um", Length, 1.0, 1e6),
        unit("in", Length, 254.0, 1e4),
        unit("ft", Length, 3048.0, 1e4),
        unit("mi", Length, 1_609_344.0, 1e3),
        unit("m2", Area, 1.0, 1.0),
        unit("cm2", Area, 1.0, 1e4),
        unit("mm2", Area, 1.0, 1e6),
        unit("ha", Area, 1e4, 1.0),
        unit("km2", Area, 1e6, 1.0),
        unit("m3", Volume, 1.0, 1.0),
        unit("l", Volume, 1.0, 1e3),
        unit("L", Volume, 1.0, 1e3),
        unit("ml", Volume, 1.0, 1e6),
        unit("cm3", Volume, 1.0, 1e6),
        unit("kg", Mass, 1.0, 1.0),
        unit("g", Mass, 1.0, 1e3),
        unit("mg", Mass, 1.0, 1e6),
        unit("t", Mass, 1e3, 1.0),
        unit("lb", Mass, 45_359_237.0, 1e8),
        unit("s", Time, 1.0, 1.0),
        unit("ms", Time, 1.0, 1e3),
        unit("us", Time, 1.0, 1e6),
        unit("min", Time, 60.0, 1.0),
        unit("h", Time, 3_600.0, 1.0),
        unit("d", Time, 86_400.0, 1.0),
        unit("Hz", Frequency, 1.0, 1.0),
        unit("1/s", Frequency, 1.0, 1.0),
        unit("1/min", Frequency, 1.0, 60.0),
        unit("rpm", Frequency, 1.0, 60.0),
        unit("beat/min", Frequency, 1.0, 60.0),
        unit("kHz", Frequency, 1e3, 1.0),
        unit("MHz", Frequency, 1e6, 1.0),
        unit("GHz", Frequency, 1e9, 1.0),
        warmth("Cel", 0.0, 1.0, 1.0),
        warmth("°C", 0.0, 1.0, 1.0),
        warmth("degC", 0.0, 1.0, 1.0),
        warmth("K", -273.15, 1.0, 1.0),
        warmth("degF", -32.0, 5.0, 9.0),
        warmth("°F", -32.0, 5.0, 9.0),
        unit("rad", Angle, 180.0, std::f64::consts::PI),
        unit("deg", Angle, 1.0, 1.0),
        unit("°", Angle, 1.0, 1.0),
        unit("m/s", Speed, 1.0, 1.0),
        unit("km/h", Speed, 10.0, 36.0),
        unit("m/h", Speed, 1.0, 3_600.0),
        unit("mm/h", Speed, 1.0, 3_600_000.0),
        unit("mph", Speed, 44_704.0, 1e5),
        unit("kn", Speed, 1_852.0, 3_600.0),
        unit("m3/s", Flow, 1.0, 1.0),
        unit("m3/h", Flow, 1.0, 3_600.0),
        unit("l/s", Flow, 1.0, 1e3),
        unit("l/min", Flow, 1.0, 6e4),
        unit("l/h", Flow, 1.0, 3.6e6),
        unit("kg/m3", Density, 1.0, 1.0),
        unit("g/l", Density, 1.0, 1.0),
        unit("mg/l", Density, 1.0, 1e3),
        unit("mg/m3", Density, 1.0, 1e6),
        unit("ug/m3", Density, 1.0, 1e9),
        unit("Pa", Pressure, 1.0, 1.0),
        unit("hPa", Pressure, 100.0, 1.0),
        unit("kPa", Pressure, 1e3, 1.0),
        unit("MPa", Pressure, 1e6, 1.0),
        unit("mbar", Pressure, 100.0, 1.0),
        unit("bar", Pressure, 1e5, 1.0),
        unit("psi", Pressure, 6_894.757_293_168, 1.0),
        unit("mmHg", Pressure, 133.322_387_415, 1.0),
        unit("J", Energy, 1.0, 1.0),
        unit("Ws", Energy, 1.0, 1.0),
        unit("kJ", Energy, 1e3, 1.0),
        unit("MJ", Energy, 1e6, 1.0),
        unit("GJ", Energy, 1e9, 1.0),
        unit("Wh", Energy, 3_600.0, 1.0),
        unit("kWh", Energy, 3.6e6, 1.0),
        unit("MWh", Energy, 3.6e9, 1.0),
        unit("VAs", ApparentEnergy, 1.0, 1.0),
        unit("VAh", ApparentEnergy, 3_600.0, 1.0),
        unit("kVAh", ApparentEnergy, 3.6e6, 1.0),
        unit("vars", ReactiveEnergy, 1.0, 1.0),
        unit("varh", ReactiveEnergy, 3_600.0, 1.0),
        unit("kvarh", ReactiveEnergy, 3.6e6, 1.0),
        unit("W", Power, 1.0, 1.0),
        unit("mW", Power, 1.0, 1e3),
        unit("kW", Power, 1e3, 1.0),
        unit("MW", Power, 1e6, 1.0),
        unit("VA", ApparentPower, 1.0, 1.0),
        unit("kVA", ApparentPower, 1e3, 1.0),
        unit("var", ReactivePower, 1.0, 1.0),
        unit("kvar", ReactivePower, 1e3, 1.0),
        unit("A", Current, 1.0, 1.0),
        unit("mA", Current, 1.0, 1e3),
        unit("uA", Current, 1.0, 1e6),
        unit("V", Voltage, 1.0, 1.0),
        unit("mV", Voltage, 1.0, 1e3),
        unit("kV", Voltage, 1e3, 1.0),
        unit("C", Charge, 1.0, 1.0),
        unit("As", Charge, 1.0, 1.0),
        unit("Ah", Charge, 3_600.0, 1.0),
        unit("mAh", Charge, 36.0, 10.0),
        unit("Ohm", Resistance, 1.0, 1.0),
        unit("kOhm", Resistance, 1e3, 1.0),
        unit("/", Ratio, 1.0, 1.0),
        unit("EL", Ratio, 1.0, 1.0),
        unit("%", Ratio, 1.0, 100.0),
        unit("%RH", Ratio, 1.0, 100.0),
        unit("%EL", Ratio, 1.0, 100.0),
        unit("/100", Ratio, 1.0, 100.0),
        unit("/1000", Ratio, 1.0, 1e3),
        unit("ppm", Ratio, 1.0, 1e6),
        unit("ppb", Ratio, 1.0, 1e9),
        unit("B", Data, 1.0, 1.0),
        unit("bit", Data, 1.0, 8.0),
        unit("kB", Data, 1e3, 1.0),
        unit("KiB", Data, 1_024.0, 1.0),
        unit("MB", Data, 1e6, 1.0),
        unit("MiB", Data, 1_048_576.0, 1.0),
        unit("GB", Data, 1e9, 1.0),
        unit("B/s", DataRate, 1.0, 1.0),
        unit("bit/s", DataRate, 1.0, 8.0),
        unit("kbit/s", DataRate, 125.0, 1.0),
        unit("Mbit/s", DataRate, 125_000.0, 1.0),
        unit("MB/s", DataRate, 1e6, 1.0),
        unit("cd", Other(0), 1.0, 1.0),
        unit("mol", Other(1), 1.0, 1.0),
        unit("N", Other(2), 1.0, 1.0),
        unit("F", Other(3), 1.0, 1.0),
        unit("S", Other(4), 1.0, 1.0),
        unit("Wb", Other(5), 1.0, 1.0),
        unit("T", Other(6), 1.0, 1.0),
        unit("H", Other(7), 1.0, 1.0),
        unit("lm", Other(8), 1.0, 1.0),
        unit("lx", Other(9), 1.0, 1.0),
        unit("Bq", Other(10), 1.0, 1.0),
        unit("Gy", Other(11), 1.0, 1.0),
        unit("Sv", Other(12), 1.0, 1.0),
        unit("m/s2", Other(13), 1.0, 1.0),
        unit("W/m2", Other(14), 1.0, 1.0),
        unit("pH", Other(15), 1.0, 1.0),
        unit("dB", Other(16), 1.0, 1.0),
        unit("dBW", Other(17), 1.0, 1.0),
        unit("dBm", Other(18), 1.0, 1.0),
        unit("Bspl", Other(19), 1.0, 1.0),
        unit("count", Other(20), 1.0, 1.0),
        unit("S/m", Other(21), 1.0, 1.0),
        unit("NTU", Other(22), 1.0, 1.0),
        unit("lat", Other(23), 1.0, 1.0),
        unit("lon", Other(24), 1.0, 1.0),
    ]
};

/// From a number in one unit to a number in another: `(x + add) * times / over + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) add: f64,
    /// Never 0.
    pub(super) times: f64,
    /// Never 0.
    pub(super) over: f64,
    pub(super) offset: f64,
}

impl Line {
    pub(super) const SAME: Self = Self {
        add: 0.0,
        times: 1.0,
        over: 1.0,
        offset: 0.0,
    };

    /// `x * scale + offset`
    pub(super) const fn of(scale: f64, offset: f64) -> Self {
        Self {
            times: scale,
            offset,
            ..Self::SAME
        }
    }

    pub(super) fn is_same(&self) -> bool {
        *self == Self::SAME
    }

    pub(super) fn apply(&self, number: f64) -> f64 {
        (number + self.add) * self.times / self.over + self.offset
    }

    pub(super) fn invert(&self, number: f64) -> f64 {
        (number - self.offset) * self.over / self.times - self.add
    }

    /// Whether a whole number stays one.
    pub(super) fn keeps_whole(&self) -> bool {
        self.over == 1.0
            && [self.add, self.times, self.offset]
                .iter()
                .all(|part| part.fract() == 0.0)
    }
}

/// How a number in `from` becomes one in `to`.
///
/// # Errors
///
/// What both are, in words, where they measure different things.
pub(super) fn conversion(
    from: &str,
    to: &str,
) -> Result<Line, Option<(&'static str, &'static str)>> {
    let find = |symbol: &str| UNITS.iter().find(|unit| unit.symbol == symbol);
    if from == to {
        return Ok(Line::SAME);
    }
    let (Some(from), Some(to)) = (find(from), find(to)) else {
        return Err(None);
    };
    if from.dimension != to.dimension {
        return Err(Some((from.dimension.name(), to.dimension.name())));
    }
    let (times, over) = (from.times * to.over, from.over * to.times);
    let whole = (times / over).fract() == 0.0;
    Ok(Line {
        add: from.add,
        times: if whole { times / over } else { times },
        over: if whole { 1.0 } else { over },
        offset: -to.add,
    })
}

/// The units that `unit` can be converted to.
pub(super) fn alike(unit: &str) -> Vec<&'static str> {
    let found = UNITS.iter().find(|known| known.symbol == unit);
    let others = UNITS.iter().filter(|known| {
        found.is_some_and(|found| found.dimension == known.dimension) && known.symbol != unit
    });
    others.map(|known| known.symbol).collect()
}

/// A number without the dust that a conversion leaves behind: 12 significant digits.
pub(super) fn dusted(number: f64) -> f64 {
    const DIGITS: i32 = 12;
    if number == 0.0 || !number.is_finite() {
        return number;
    }
    let places = DIGITS - 1 - number.abs().log10().floor() as i32;
    if !(0..=22).contains(&places) {
        return number;
    }
    let factor = 10_f64.powi(places);
    (number * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_becomes_one_in_another_unit_and_comes_back() {
        for (number, from, to, expected) in [
            (21.7, "Cel", "K", 294.85),
            (68.0, "degF", "Cel", 20.0),
            (20.0, "Cel", "degF", 68.0),
            (273.15, "K", "Cel", 0.0),
            (300.0, "K", "degF", 80.33),
            (29.0076, "psi", "bar", 2.000_003_616_57),
            (1_013.25, "hPa", "Pa", 101_325.0),
            (1.5, "km", "m", 1_500.0),
            (90.0, "km/h", "m/s", 25.0),
            (3_600_000.0, "J", "kWh", 1.0),
            (87.0, "/100", "%", 87.0),
            (0.5, "/", "%RH", 50.0),
            (2.0, "l/min", "m3/h", 0.12),
            (10.0, "deg", "rad", 0.174_532_925_199),
            (1.0, "KiB", "bit", 8_192.0),
            (1_500.0, "mAh", "Ah", 1.5),
        ] {
            let line = conversion(from, to).unwrap();
            assert_eq!(
                dusted(line.apply(number)),
                expected,
                "{number} {from} in {to}"
            );
            assert_eq!(
                dusted(line.invert(line.apply(number))),
                number,
                "{from} {to}"
            );
        }
    }

    #[test]
    fn what_measures_something_else_does_not_become_it() {
        assert_eq!(
            conversion("Pa", "Cel"),
            Err(Some(("a pressure", "a temperature")))
        );
        assert!(matches!(conversion("lx", "lm"), Err(Some(_))));
        assert_eq!(conversion("pcs", "%"), Err(None));
        assert_eq!(conversion("pcs", "pcs"), Ok(Line::SAME));
        assert!(alike("Cel").contains(&"degF") && alike("pcs").is_empty());
    }

    #[test]
    fn every_unit_stands_once() {
        for (at, unit) in UNITS.iter().enumerate() {
            let mut later = UNITS.iter().skip(at + 1);
            assert!(later.all(|other| other.symbol != unit.symbol), "{unit:?}");
            assert!(unit.times != 0.0 && unit.over != 0.0);
        }
    }

    #[test]
    fn whole_numbers_stay_whole_by_a_whole_factor() {
        assert!(conversion("km", "m").unwrap().keeps_whole());
        assert!(conversion("Wh", "J").unwrap().keeps_whole());
        assert!(!conversion("m", "km").unwrap().keeps_whole());
        assert!(!conversion("Cel", "K").unwrap().keeps_whole());
    }
}
