//! A device that is not there: temperature, humidity, a light and a switch that live in time.
//!
//! Everything is drawn from one seed, so the same device with the same seed behaves the same.

use std::f64::consts::TAU;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::client::tree::{Resource, Tree};
use crate::client::{Behaviour, Effect};
use crate::coap::Code;
use crate::lwm2m::model::Operations;
use crate::lwm2m::{Arguments, DataType, Id, Path, Value, Version};
use crate::name::short_hash;
use crate::time::{Instant, Now};

const PORTFOLIO: Id = 16;
const TEMPERATURE: Id = 3303;
const HUMIDITY: Id = 3304;
const LIGHT_CONTROL: Id = 3311;
const BAROMETER: Id = 3315;
const ON_OFF_SWITCH: Id = 3342;

const FIRMWARE: Id = 5;

const SENSOR_VALUE: Id = 5700;
const MIN_MEASURED: Id = 5601;
const MAX_MEASURED: Id = 5602;
const RESET_MIN_MAX: Id = 5605;

const REBOOT: Path = Path::resource(3, 0, 4);
const FACTORY_RESET: Path = Path::resource(3, 0, 5);
const BATTERY_LEVEL: Path = Path::resource(3, 0, 9);
const ERROR_CODE: Path = Path::resource(3, 0, 11);
const RESET_ERROR_CODE: Path = Path::resource(3, 0, 12);
const CURRENT_TIME: Path = Path::resource(3, 0, 13);
const FIRMWARE_VERSION: Path = Path::resource(3, 0, 3);
const PACKAGE: Path = Path::resource(FIRMWARE, 0, 0);
const PACKAGE_URI: Path = Path::resource(FIRMWARE, 0, 1);
const UPDATE: Path = Path::resource(FIRMWARE, 0, 2);
const UPDATE_STATE: Path = Path::resource(FIRMWARE, 0, 3);
const UPDATE_RESULT: Path = Path::resource(FIRMWARE, 0, 5);
const LIGHT_ON: Path = Path::resource(LIGHT_CONTROL, 0, 5850);
const LIGHT_DIMMER: Path = Path::resource(LIGHT_CONTROL, 0, 5851);
const LIGHT_ON_TIME: Path = Path::resource(LIGHT_CONTROL, 0, 5852);
const SWITCH_STATE: Path = Path::resource(ON_OFF_SWITCH, 0, 5500);
const SWITCH_COUNTER: Path = Path::resource(ON_OFF_SWITCH, 0, 5501);

/// How long a simulated device is away when it reboots.
const REBOOT_TIME: Duration = Duration::from_secs(2);
/// How long one percent of the battery lasts.
const BATTERY_STEP: Duration = Duration::from_secs(30);

/// What a simulated device is like.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Which device of a fleet: it decides what it has beside the common objects.
    pub index: u32,
    /// /1/0/1, in seconds.
    pub lifetime: u32,
    /// Time between two values of a sensor on average; each wait is between half and one and a
    /// half of it.
    pub interval: Duration,
}

/// The behaviour of a simulated device.
#[derive(Debug)]
pub struct Simulated {
    rng: StdRng,
    interval: Duration,
    sensors: Vec<Sensor>,
    switch_at: Instant,
    battery_at: Instant,
    light_on_since: Option<Instant>,
    /// What a server set the clock to, against our own, in milliseconds.
    clock_offset: i64,
    /// The version of the package that is here.
    package: Option<String>,
    /// When the package is installed that is being installed.
    install_at: Option<Instant>,
}

/// A measured value: a slow wave with noise on it.
#[derive(Debug)]
struct Sensor {
    instance: Path,
    mean: f64,
    swing: f64,
    noise: f64,
    period: f64,
    phase: f64,
    next: Instant,
}

impl Sensor {
    /// The value at an instant, to two decimals.
    fn sample(&self, now: Instant, rng: &mut StdRng) -> f64 {
        let seconds = now.since(Instant::ZERO).as_secs_f64();
        let wave = (TAU * (seconds / self.period + self.phase)).sin();
        let noise = rng.random_range(-1.0..1.0) * self.noise;
        ((self.mean + self.swing * wave + noise) * 100.0).round() / 100.0
    }

    fn path(&self, resource: Id) -> Path {
        self.instance.child(resource).unwrap_or(self.instance)
    }
}

impl Simulated {
    /// A device and its objects as they are at `now`.
    pub fn device(now: Now, profile: &Profile, seed: [u8; 32]) -> (Self, Tree) {
        let mut rng = StdRng::from_seed(seed);
        let mut tree = Tree::new();
        let mut simulated = Self {
            sensors: sensors(profile.index, &mut rng),
            switch_at: now.instant + Duration::from_secs_f64(rng.random_range(3.0..15.0)),
            battery_at: now.instant + BATTERY_STEP.mul_f64(rng.random_range(0.2..1.0)),
            interval: profile.interval,
            light_on_since: None,
            clock_offset: 0,
            package: None,
            install_at: None,
            rng,
        };
        add_server(&mut tree, profile.lifetime);
        let battery = simulated.rng.random_range(40..=100);
        add_device(&mut tree, now, profile.index, battery);
        simulated.add_sensors(&mut tree, now);
        add_light(&mut tree);
        add_switch(&mut tree);
        offer_portfolio(&mut tree);
        add_firmware(&mut tree);
        (simulated, tree)
    }

    fn add_sensors(&mut self, tree: &mut Tree, now: Now) {
        for sensor in &mut self.sensors {
            let value = sensor.sample(now.instant, &mut self.rng);
            sensor.next = now.instant + wait(self.interval, &mut self.rng);
            let &[object, instance] = sensor.instance.ids() else {
                continue;
            };
            let (unit, version) = match object {
                HUMIDITY => ("%RH", None),
                BAROMETER => ("hPa", Some(Version::V1_1)),
                _ => ("Cel", None),
            };
            let readable = |number: f64| Resource::readable(Value::Float(number));
            let resources = [
                (MIN_MEASURED, readable(value)),
                (MAX_MEASURED, readable(value)),
                (RESET_MIN_MAX, Resource::executable()),
                (SENSOR_VALUE, readable(value).mandatory()),
                (5701, Resource::readable(Value::String(unit.into()))),
            ];
            tree.insert(object, version, instance, resources);
        }
    }

    fn measure(&mut self, now: Instant, tree: &mut Tree) {
        for sensor in &mut self.sensors {
            if sensor.next > now {
                continue;
            }
            sensor.next = now + wait(self.interval, &mut self.rng);
            let value = sensor.sample(now, &mut self.rng);
            tree.set(&sensor.path(SENSOR_VALUE), Value::Float(value));
            let held = |resource| match tree.value(&sensor.path(resource)) {
                Some(Value::Float(number)) => *number,
                _ => value,
            };
            let (least, greatest) = (held(MIN_MEASURED), held(MAX_MEASURED));
            tree.set(&sensor.path(MIN_MEASURED), Value::Float(least.min(value)));
            tree.set(
                &sensor.path(MAX_MEASURED),
                Value::Float(greatest.max(value)),
            );
        }
    }

    fn toggle_switch(&mut self, now: Instant, tree: &mut Tree) {
        if self.switch_at > now {
            return;
        }
        self.switch_at = now + Duration::from_secs_f64(self.rng.random_range(5.0..20.0));
        let on = tree.value(&SWITCH_STATE) == Some(&Value::Boolean(true));
        tree.set(&SWITCH_STATE, Value::Boolean(!on));
        if let Some(&Value::Integer(count)) = tree.value(&SWITCH_COUNTER) {
            tree.set(&SWITCH_COUNTER, Value::Integer(count.wrapping_add(1)));
        }
    }

    fn drain_battery(&mut self, now: Instant, tree: &mut Tree) {
        if self.battery_at > now {
            return;
        }
        self.battery_at = now + BATTERY_STEP;
        if let Some(&Value::Integer(level)) = tree.value(&BATTERY_LEVEL) {
            // somebody changes it in time
            let level = if level <= 5 { 100 } else { level - 1 };
            tree.set(&BATTERY_LEVEL, Value::Integer(level));
        }
    }

    /// Takes a package in, whatever it holds, or drops it (LwM2M Core 1.1, appendix E.6). While one
    /// is being installed, nothing is taken.
    fn take_package(&mut self, tree: &mut Tree) {
        let Some(Value::Opaque(package)) = tree.value(&PACKAGE).cloned() else {
            return;
        };
        tree.set_silently(&PACKAGE, Value::Opaque(Vec::new()));
        if self.install_at.is_some() {
            return;
        }
        let is_nothing = package.is_empty() || package == [0];
        self.package = (!is_nothing).then(|| short_hash(&package));
        tell_update(tree, if is_nothing { 0 } else { 2 }, 0);
    }

    /// It fetches nothing: whatever the place is, the protocol is not supported.
    fn take_package_uri(&mut self, tree: &mut Tree) {
        let none = tree.value(&PACKAGE_URI) == Some(&Value::String(String::new()));
        if self.install_at.is_none() {
            self.package = None;
            tell_update(tree, 0, if none { 0 } else { 9 });
        }
    }

    fn install(&mut self, now: Instant, tree: &mut Tree) {
        if self.install_at.is_none_or(|at| at > now) {
            return;
        }
        self.install_at = None;
        if let Some(version) = self.package.take() {
            tree.set(&FIRMWARE_VERSION, Value::String(version));
            tell_update(tree, 0, 1);
        }
    }

    /// The light counts the seconds that it is on.
    fn light(&mut self, now: Instant, tree: &mut Tree) {
        let on = tree.value(&LIGHT_ON) == Some(&Value::Boolean(true));
        match (on, self.light_on_since) {
            (true, None) => {
                self.light_on_since = Some(now);
                tree.set(&LIGHT_ON_TIME, Value::Integer(0));
            }
            (true, Some(since)) => {
                let seconds = i64::try_from(now.since(since).as_secs()).unwrap_or(i64::MAX);
                tree.set_silently(&LIGHT_ON_TIME, Value::Integer(seconds));
            }
            (false, _) => self.light_on_since = None,
        }
    }
}

impl Behaviour for Simulated {
    fn step(&mut self, now: Now, tree: &mut Tree) -> Option<Instant> {
        let seconds = (now.unix.as_millis().saturating_add(self.clock_offset)).div_euclid(1000);
        tree.set_silently(&CURRENT_TIME, Value::Time(seconds));
        self.measure(now.instant, tree);
        self.toggle_switch(now.instant, tree);
        self.drain_battery(now.instant, tree);
        self.light(now.instant, tree);
        self.install(now.instant, tree);
        let sensors = self.sensors.iter().map(|sensor| sensor.next);
        let others = [self.switch_at, self.battery_at];
        sensors.chain(others).chain(self.install_at).min()
    }

    fn written(&mut self, now: Now, resource: &Path, tree: &mut Tree) {
        match (*resource, tree.value(resource)) {
            (CURRENT_TIME, Some(&Value::Time(seconds))) => {
                let millis = seconds.saturating_mul(1000);
                self.clock_offset = millis.saturating_sub(now.unix.as_millis());
            }
            (PACKAGE, _) => self.take_package(tree),
            (PACKAGE_URI, _) => self.take_package_uri(tree),
            // a light that is dimmed to nothing is off, and one that is brightened is on
            (LIGHT_DIMMER, Some(&Value::Integer(level))) => {
                tree.set(&LIGHT_ON, Value::Boolean(level > 0));
            }
            _ => {}
        }
    }

    fn execute(
        &mut self,
        now: Now,
        resource: &Path,
        _arguments: &Arguments,
        tree: &mut Tree,
    ) -> Result<Effect, Code> {
        match *resource {
            REBOOT => return Ok(Effect::Restart(REBOOT_TIME)),
            UPDATE if self.package.is_some() && self.install_at.is_none() => {
                tell_update(tree, 3, 0);
                // The result is there before it registers again.
                self.install_at = Some(now.instant + REBOOT_TIME / 2);
                return Ok(Effect::Restart(REBOOT_TIME));
            }
            FACTORY_RESET => {
                tree.set(&LIGHT_ON, Value::Boolean(false));
                tree.set(&LIGHT_DIMMER, Value::Integer(100));
                self.clock_offset = 0;
                return Ok(Effect::Restart(REBOOT_TIME));
            }
            // 0 is "no error" (/3/x/11), and the only one that this device knows
            RESET_ERROR_CODE => {
                let first = ERROR_CODE.child(0).unwrap_or(ERROR_CODE);
                tree.set(&first, Value::Integer(0));
            }
            _ if resource.resource_id() == Some(RESET_MIN_MAX) => {
                let sibling = |id| resource.truncate(2).child(id).unwrap_or(*resource);
                if let Some(value) = tree.value(&sibling(SENSOR_VALUE)).cloned() {
                    tree.set(&sibling(MIN_MEASURED), value.clone());
                    tree.set(&sibling(MAX_MEASURED), value);
                }
            }
            _ => return Err(Code::METHOD_NOT_ALLOWED),
        }
        Ok(Effect::None)
    }
}

fn tell_update(tree: &mut Tree, state: i64, result: i64) {
    tree.set(&UPDATE_STATE, Value::Integer(state));
    tree.set(&UPDATE_RESULT, Value::Integer(result));
}

/// Between half and one and a half of an interval, and never no time at all.
fn wait(interval: Duration, rng: &mut StdRng) -> Duration {
    interval
        .max(Duration::from_millis(10))
        .mul_f64(rng.random_range(0.5..1.5))
}

/// Every device measures temperature and humidity; of three, one has a second probe and one a
/// barometer.
fn sensors(index: u32, rng: &mut StdRng) -> Vec<Sensor> {
    let mut sensor = |object, instance, mean: f64, swing: f64, noise: f64| Sensor {
        instance: Path::instance(object, instance),
        mean,
        swing,
        noise,
        period: rng.random_range(120.0..600.0),
        phase: rng.random_range(0.0..1.0),
        next: Instant::ZERO,
    };
    let mut sensors = vec![
        sensor(TEMPERATURE, 0, 21.5, 3.0, 0.1),
        sensor(HUMIDITY, 0, 48.0, 9.0, 0.4),
    ];
    match index % 3 {
        1 => sensors.push(sensor(TEMPERATURE, 1, -18.0, 1.5, 0.2)),
        2 => sensors.push(sensor(BAROMETER, 0, 1013.0, 8.0, 0.1)),
        _ => {}
    }
    sensors
}

fn add_server(tree: &mut Tree, lifetime: u32) {
    let resources = [
        (0, Resource::readable(Value::Integer(1)).mandatory()),
        (
            1,
            Resource::writable(Value::Integer(lifetime.into()))
                .within(0.0, f64::from(u32::MAX))
                .mandatory(),
        ),
        (
            2,
            Resource::vacant(DataType::Integer).within(0.0, f64::from(u32::MAX)),
        ),
        (
            3,
            Resource::vacant(DataType::Integer).within(0.0, f64::from(u32::MAX)),
        ),
        (6, Resource::writable(Value::Boolean(true)).mandatory()),
        (7, Resource::writable(Value::String("U".into())).mandatory()),
        (8, Resource::executable().mandatory()),
        (23, Resource::writable(Value::Boolean(true))),
    ];
    tree.insert(1, None, 0, resources);
}

fn add_device(tree: &mut Tree, now: Now, index: u32, battery: i64) {
    let text = |text: &str| Value::String(text.into());
    let seconds = now.unix.as_millis().div_euclid(1000);
    // internal battery, and mains behind a USB plug
    let sources = [(0, Value::Integer(1)), (1, Value::Integer(5))];
    let voltages = [(0, Value::Integer(3800)), (1, Value::Integer(5000))];
    let resources = [
        (0, Resource::readable(text("lwm2mqtt"))),
        (1, Resource::readable(text("simulated"))),
        (2, Resource::readable(text(&format!("SIM-{index:06}")))),
        (3, Resource::readable(text(env!("CARGO_PKG_VERSION")))),
        (4, Resource::executable().mandatory()),
        (5, Resource::executable()),
        (6, Resource::multiple(DataType::Integer, sources)),
        (7, Resource::multiple(DataType::Integer, voltages)),
        (9, Resource::readable(Value::Integer(battery))),
        (
            11,
            Resource::multiple(DataType::Integer, [(0, Value::Integer(0))]).mandatory(),
        ),
        (12, Resource::executable()),
        (13, Resource::writable(Value::Time(seconds))),
        (14, Resource::writable(text("+00:00"))),
        (15, Resource::writable(text("Etc/UTC"))),
        (16, Resource::readable(text("U")).mandatory()),
    ];
    tree.insert(3, None, 0, resources);
}

fn add_firmware(tree: &mut Tree) {
    let package = Resource {
        operations: Operations {
            read: false,
            write: true,
            execute: false,
        },
        ..Resource::writable(Value::Opaque(Vec::new()))
    };
    let integer = |value| Resource::readable(Value::Integer(value)).mandatory();
    let resources = [
        (0, package.mandatory()),
        (
            1,
            Resource::writable(Value::String(String::new())).mandatory(),
        ),
        (2, Resource::executable().mandatory()),
        (3, integer(0)),
        (5, integer(0)),
        // push alone
        (9, integer(1)),
    ];
    tree.insert(FIRMWARE, None, 0, resources);
}

fn add_light(tree: &mut Tree) {
    let resources = [
        (5750, Resource::writable(Value::String("Lamp".into()))),
        (5850, Resource::writable(Value::Boolean(false)).mandatory()),
        (
            5851,
            Resource::writable(Value::Integer(100)).within(0.0, 100.0),
        ),
        (
            5852,
            Resource::writable(Value::Integer(0)).within(0.0, f64::from(u32::MAX)),
        ),
    ];
    tree.insert(LIGHT_CONTROL, None, 0, resources);
}

/// Servers may keep names of theirs here: one instance for each of them, or none.
fn offer_portfolio(tree: &mut Tree) {
    let identity = Resource {
        operations: Resource::vacant(DataType::String).operations,
        ..Resource::multiple(DataType::String, [])
    };
    tree.offer(PORTFOLIO, None, [(0, identity.mandatory())].into());
}

fn add_switch(tree: &mut Tree) {
    let resources = [
        (5500, Resource::readable(Value::Boolean(false)).mandatory()),
        (5501, Resource::readable(Value::Integer(0))),
        (5750, Resource::writable(Value::String("Door".into()))),
    ];
    tree.insert(ON_OFF_SWITCH, None, 0, resources);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::UnixTime;

    fn now() -> Now {
        Now {
            instant: Instant::from_micros(5_000_000),
            unix: UnixTime::from_millis(1_795_360_765_120),
        }
    }

    fn device(index: u32) -> (Simulated, Tree) {
        let profile = Profile {
            index,
            lifetime: 300,
            interval: Duration::from_secs(2),
        };
        Simulated::device(now(), &profile, [index as u8; 32])
    }

    #[test]
    fn a_sensor_moves_every_one_to_three_seconds() {
        let (mut simulated, mut tree) = device(0);
        let value = Path::resource(TEMPERATURE, 0, SENSOR_VALUE);
        let (mut time, mut changes) = (now(), 0);
        for _ in 0..600 {
            time = time + Duration::from_millis(100);
            let next = simulated.step(time, &mut tree).unwrap();
            assert!(next > time.instant, "a step asks for a later one");
            changes += u32::from(tree.take_changes().contains(&value));
        }
        assert!((20..=60).contains(&changes), "{changes} in a minute");
    }

    #[test]
    fn the_extremes_follow_the_value_until_they_are_reset() {
        let (mut simulated, mut tree) = device(0);
        let mut time = now();
        for _ in 0..300 {
            time = time + Duration::from_secs(1);
            simulated.step(time, &mut tree);
        }
        let number = |tree: &Tree, id| match tree.value(&Path::resource(TEMPERATURE, 0, id)) {
            Some(Value::Float(number)) => *number,
            other => panic!("{other:?}"),
        };
        assert!(number(&tree, MIN_MEASURED) < number(&tree, MAX_MEASURED));
        let reset = Path::resource(TEMPERATURE, 0, RESET_MIN_MAX);
        let effect = simulated.execute(time, &reset, &Arguments::default(), &mut tree);
        assert_eq!(effect, Ok(Effect::None));
        assert_eq!(number(&tree, MIN_MEASURED), number(&tree, SENSOR_VALUE));
        assert_eq!(number(&tree, MAX_MEASURED), number(&tree, SENSOR_VALUE));
    }

    #[test]
    fn the_clock_follows_what_a_server_sets() {
        let (mut simulated, mut tree) = device(0);
        tree.set(&CURRENT_TIME, Value::Time(1000));
        simulated.written(now(), &CURRENT_TIME, &mut tree);
        tree.take_changes();
        simulated.step(now() + Duration::from_millis(700), &mut tree);
        assert_eq!(tree.value(&CURRENT_TIME), Some(&Value::Time(1000)));
        simulated.step(now() + Duration::from_millis(1000), &mut tree);
        assert_eq!(tree.value(&CURRENT_TIME), Some(&Value::Time(1001)));
        assert!(!tree.take_changes().contains(&CURRENT_TIME), "no news");
    }

    #[test]
    fn devices_differ_by_their_index_and_are_alike_by_their_seed() {
        let objects = |index| {
            let (_, tree) = device(index);
            let objects = tree.objects().iter();
            objects
                .map(|(id, object)| (*id, object.instances.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            objects(0),
            [
                (1, 1),
                (3, 1),
                (5, 1),
                (16, 0),
                (3303, 1),
                (3304, 1),
                (3311, 1),
                (3342, 1)
            ]
        );
        assert!(objects(1).contains(&(3303, 2)));
        assert!(objects(2).contains(&(3315, 1)));
        let value = Path::resource(TEMPERATURE, 0, SENSOR_VALUE);
        assert_eq!(device(0).1.value(&value), device(0).1.value(&value));
        assert_ne!(device(0).1.value(&value), device(3).1.value(&value));
    }

    // conformance: 1.1-int-772
    #[test]
    fn a_package_is_taken_installed_and_shows_in_the_version() {
        let (mut simulated, mut tree) = device(0);
        let states =
            |tree: &Tree| [UPDATE_STATE, UPDATE_RESULT].map(|path| tree.value(&path).cloned());
        let integers = |state, result| [state, result].map(|it| Some(Value::Integer(it)));
        let update = |simulated: &mut Simulated, tree: &mut Tree| {
            simulated.execute(now(), &UPDATE, &Arguments::default(), tree)
        };
        let without = update(&mut simulated, &mut tree);
        assert_eq!(without, Err(Code::METHOD_NOT_ALLOWED));
        for (package, state) in [(&[1, 2, 3][..], 2), (&[0][..], 0), (&[4, 5][..], 2)] {
            tree.set(&PACKAGE, Value::Opaque(package.to_vec()));
            simulated.written(now(), &PACKAGE, &mut tree);
            assert_eq!(states(&tree), integers(state, 0));
        }
        let version = tree.value(&FIRMWARE_VERSION).cloned();
        let done = update(&mut simulated, &mut tree);
        assert_eq!(done, Ok(Effect::Restart(REBOOT_TIME)));
        assert_eq!(states(&tree), integers(3, 0));
        simulated.step(now() + REBOOT_TIME, &mut tree);
        assert_eq!(states(&tree), integers(0, 1));
        assert_ne!(tree.value(&FIRMWARE_VERSION).cloned(), version);
        assert_eq!(
            update(&mut simulated, &mut tree),
            Err(Code::METHOD_NOT_ALLOWED)
        );
    }
}
