//! Tests of the whole of [`Models`](super::Models).

use std::collections::HashSet;

use super::*;

const FILE: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<LWM2M xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
  <Object ObjectType="MODefinition">
    <Description1><![CDATA[Anything <b>at all</b>]]></Description1>
    <Name>
      Pump   House
    </Name>
    <ObjectID>33210</ObjectID>
    <ObjectVersion>2.1</ObjectVersion>
    <Mandatory>Optional</Mandatory>
    <MultipleInstances>Multiple</MultipleInstances>
    <Resources>
      <Item ID="7"><Name>Faults</Name><Operations>R</Operations><MultipleInstances>Multiple</MultipleInstances>
        <Mandatory>Optional</Mandatory><Type>Unsigned Integer</Type><RangeEnumeration>0..255</RangeEnumeration><Units><![CDATA[1/min]]></Units></Item>
      <Item ID="1"><Name>Stop</Name><Operations>E</Operations><MultipleInstances>Single</MultipleInstances>
        <Mandatory>Mandatory</Mandatory><Type></Type></Item>
    </Resources>
  </Object>
</LWM2M>
"#;

#[test]
fn the_registry_knows_the_device_object() {
    let models = Models::builtin();
    let device = models.object(3, None).unwrap();
    assert_eq!((device.name, device.version), ("Device", Version::V1_2));
    assert!(device.mandatory && !device.multiple);
    let battery = device.resource(9).unwrap();
    assert_eq!(
        battery,
        ResourceModel {
            id: 9,
            name: "Battery Level",
            operations: Operations {
                read: true,
                ..Operations::default()
            },
            multiple: false,
            mandatory: false,
            data_type: Some(DataType::Integer),
            units: Some("/100"),
            range: Some("0..100"),
        }
    );
    let reboot = device.resource(4).unwrap();
    assert!(reboot.operations.execute && reboot.mandatory && reboot.data_type.is_none());
    assert!(device.resource(7).unwrap().multiple);
    assert!(device.resource(9999).is_none());
    assert!(models.object(9999, None).is_none());
}

#[test]
fn the_version_found_is_the_same_the_nearest_or_the_newest() {
    let models = Models::builtin();
    let found = |version| models.object(3336, version).unwrap().version.to_string();
    assert_eq!(found(None), "2.0");
    assert_eq!(found(Some(Version::new(1, 0))), "1.0");
    assert_eq!(found(Some(Version::new(1, 7))), "1.1");
    assert_eq!(found(Some(Version::new(2, 3))), "2.0");
    assert_eq!(found(Some(Version::new(9, 0))), "2.0");
    let versions: Vec<_> = models
        .versions(3336)
        .map(|m| m.version.to_string())
        .collect();
    assert_eq!(versions, ["1.0", "1.1", "2.0"]);
}

#[test]
fn names_are_those_of_the_contract() {
    let models = Models::builtin();
    for (object, instance, resource, index, topic) in [
        (3303, 0, 5700, None, "temperature-0/sensor-value"),
        (3, 0, 9, None, "device-0/battery-level"),
        (3, 0, 6, Some(1), "device-0/available-power-sources-1"),
        (33210, 0, 7, None, "33210-0/7"),
        (33210, 0, 7, Some(2), "33210-0/7-2"),
        (3, 0, 9, Some(1), "device-0/9-1"),
        (
            3392,
            0,
            934,
            None,
            "oa-logical-illuminance-sensor-0/object-enabled-934",
        ),
        (
            3430,
            0,
            18,
            Some(3),
            "global-navigation-satellite-system-0/18-3",
        ),
        (6, 0, 0, None, "location-0/latitude"),
        (3336, 0, 6051, None, "location-3336-0/numeric-latitude"),
        (3311, 0, 5850, None, "light-control-0/on-off"),
    ] {
        let instance_name = models.instance_name(object, instance);
        let signal_name = models.signal_name(object, resource, index);
        assert_eq!(format!("{instance_name}/{signal_name}"), topic);
        assert_eq!(
            models.instance_by_name(&instance_name),
            Some((object, instance))
        );
        assert_eq!(
            models.signal_by_name(object, &signal_name),
            Some((resource, index))
        );
    }
    assert!(matches!(
        models.object_name(3303),
        Cow::Borrowed("temperature")
    ));
}

#[test]
fn a_name_that_no_path_has_finds_nothing() {
    let models = Models::builtin();
    for name in [
        "temperature",
        "temperature-",
        "temperature-00",
        "temperature-65535",
        "3303-0",
        "-0",
        "",
    ] {
        assert_eq!(models.instance_by_name(name), None, "{name}");
    }
    for name in [
        "",
        "5700",
        "sensor-value-x",
        "sensor-value-",
        "sensor-value-+1",
        "-1",
    ] {
        assert_eq!(models.signal_by_name(3303, name), None, "{name}");
    }
}

/// Every resource of the registry, of objects and resources unknown, and of their instances.
#[test]
fn no_two_paths_share_a_topic() {
    const IDS: [Id; 9] = [0, 1, 2, 5, 18, 934, 3336, 5700, 65534];
    let models = Models::builtin();
    let mut instances = HashSet::new();
    let mut paths = 0;
    let unknown = [3, 40, 9999, 33210, 65534];
    let objects: Vec<Id> = models.objects().map(|object| object.id).collect();
    let unknown = unknown.into_iter().filter(|id| !objects.contains(id));
    for object in objects.iter().copied().chain(unknown) {
        for instance in IDS {
            let name = models.instance_name(object, instance);
            assert_eq!(
                models.instance_by_name(&name),
                Some((object, instance)),
                "{name}"
            );
            assert!(instances.insert(name), "/{object}/{instance}");
        }
        let mut resources: Vec<Id> = models
            .versions(object)
            .flat_map(|model| {
                model
                    .resources()
                    .map(|resource| resource.id)
                    .collect::<Vec<_>>()
            })
            .chain([0, 1, 2, 7, 5700, 5750, 65534])
            .collect();
        resources.sort_unstable();
        resources.dedup();
        let mut signals = HashSet::new();
        for resource in resources {
            for index in IDS.into_iter().map(Some).chain([None]) {
                let name = models.signal_name(object, resource, index);
                assert_eq!(
                    models.signal_by_name(object, &name),
                    Some((resource, index)),
                    "{name}"
                );
                assert!(signals.insert(name), "/{object}/*/{resource}");
                paths += 1;
            }
        }
    }
    assert!(paths > 40_000, "{paths}");
}

#[test]
fn every_name_can_stand_in_a_topic() {
    let models = Models::builtin();
    for object in models.objects() {
        let names = object
            .resources()
            .map(|r| models.resource_name(object.id, r.id));
        for name in names.chain([models.object_name(object.id)]) {
            assert!(!name.is_empty() && !name.starts_with('-') && !name.ends_with('-'));
            assert!(
                name.bytes()
                    .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')),
                "{name}"
            );
        }
    }
}

#[test]
fn an_object_file_adds_its_objects() {
    let mut models = Models::builtin();
    let version = Version::new(2, 1);
    assert_eq!(
        models.add_xml(&format!("\u{feff}{FILE}")).unwrap(),
        [(33210, version)]
    );
    let object = models.object(33210, None).unwrap();
    assert_eq!(
        (object.name, object.version, object.multiple),
        ("Pump House", version, true)
    );
    let faults = object.resource(7).unwrap();
    assert_eq!(
        (faults.units, faults.range),
        (Some("1/min"), Some("0..255"))
    );
    assert_eq!(faults.data_type, Some(DataType::UnsignedInteger));
    assert_eq!(object.resources().map(|r| r.id).collect::<Vec<_>>(), [1, 7]);
    assert_eq!(models.instance_name(33210, 0), "pump-house-0");
    assert_eq!(models.resource_name(33210, 7), "faults");
    assert_eq!(models.instance_by_name("pump-house-3"), Some((33210, 3)));
    assert_eq!(models.instance_by_name("33210-3"), None);
}

#[test]
fn an_object_of_the_same_version_is_replaced_and_names_follow_the_newest() {
    let mut models = Models::empty();
    models.add_xml(FILE).unwrap();
    models.add_xml(&FILE.replace("Faults", "Failures")).unwrap();
    assert_eq!(models.versions(33210).count(), 1);
    assert_eq!(models.resource_name(33210, 7), "failures");
    let older = FILE
        .replace(">2.1<", ">2.0<")
        .replace("Faults", "Old")
        .replace("ID=\"1\"", "ID=\"2\"");
    models.add_xml(&older).unwrap();
    assert_eq!(models.resource_name(33210, 7), "failures");
    assert_eq!(
        models.resource_name(33210, 2),
        "stop-2",
        "1 has the name in the newest"
    );
    let old = models.object(33210, Some(Version::new(2, 0))).unwrap();
    assert_eq!(old.resource(7).unwrap().name, "Old");
    assert!(old.resource(1).is_none() && old.resource(2).is_some());
    let new = models.object(33210, None).unwrap();
    assert!(new.resource(1).is_some() && new.resource(2).is_none());
}

#[test]
fn a_builtin_object_can_be_replaced() {
    let mut models = Models::builtin();
    let mine = FILE.replace("33210", "3303").replace(">2.1<", ">1.1<");
    models.add_xml(&mine).unwrap();
    assert_eq!(models.object_name(3303), "pump-house");
    assert!(models.object(3303, None).unwrap().resource(5700).is_none());
    let old = models.object(3303, Some(Version::V1_0)).unwrap();
    assert_eq!(old.resource(5700).unwrap().name, "Sensor Value");
}

#[test]
fn a_bad_object_file_names_the_place_and_adds_nothing() {
    for (old, new, line, column, message) in [
        (
            "</Name>",
            "</Nome>",
            7,
            5,
            "not well-formed XML: expected 'Name' tag, not 'Nome'",
        ),
        ("Anything", "&nbsp;", 0, 0, ""),
        (
            "<LWM2M ",
            "<!DOCTYPE a><LWM2M ",
            1,
            1,
            "not well-formed XML",
        ),
        (
            "LWM2M",
            "Model",
            2,
            1,
            "an object file has <LWM2M> at its top, not <Model>",
        ),
        (
            ">33210<",
            ">65535<",
            8,
            5,
            "an object id is a number from 0 to 65534, not \"65535\"",
        ),
        (
            "<ObjectID>33210</ObjectID>",
            "",
            3,
            3,
            "<Object> needs a <ObjectID>",
        ),
        (
            ">2.1<",
            ">2<",
            9,
            5,
            "a version is two numbers with a dot between them, as in 1.1, not \"2\"",
        ),
        (">Unsigned Integer<", ">Int<", 14, 40, "a type is String"),
        (
            ">E<",
            ">X<",
            15,
            37,
            "operations are R, W, RW, E or empty, not \"X\"",
        ),
        ("ID=\"1\"", "ID=\"7\"", 15, 7, "resource 7 is defined twice"),
        ("ID=\"1\"", "", 15, 7, "an <Item> has an ID"),
        (
            ">Optional<",
            ">Maybe<",
            14,
            9,
            "<Mandatory> is Optional or Mandatory, not \"Maybe\"",
        ),
    ] {
        let mut models = Models::empty();
        let result = models.add_xml(&FILE.replace(old, new));
        if message.is_empty() {
            assert!(result.is_ok(), "inside CDATA");
            continue;
        }
        let error = result.unwrap_err();
        assert!(error.message.starts_with(message), "{error}");
        assert_eq!((error.line, error.column), (line, column), "{error}");
        assert_eq!(models.objects().count(), 0);
    }
    assert!(Models::empty().add_xml("").is_err());
    assert!(Models::empty().add_xml("<LWM2M/>").is_err());
}

#[test]
fn the_33rd_version_of_an_object_is_refused() {
    let mut models = Models::empty();
    for minor in 0..32 {
        let file = FILE.replace(">2.1<", &format!(">1.{minor}<"));
        models.add_xml(&file).unwrap();
    }
    let error = models.add_xml(FILE).unwrap_err();
    assert_eq!((error.line, error.column), (3, 3));
    assert_eq!(models.versions(33210).count(), 32);
    models.add_xml(&FILE.replace(">2.1<", ">1.31<")).unwrap();
}
