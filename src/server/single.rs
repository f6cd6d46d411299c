//! A composite operation, done one node at a time for a device that has no such operations.

use std::collections::VecDeque;

use super::answer::{Answer, OperationError};
use super::operation::Operation;
use crate::lwm2m::codec::Change;
use crate::lwm2m::{Level, Path, Record, Target};

/// How far a composite operation has come.
///
/// It is not what it stands for: values are of different moments, and a write that fails has
/// written what came before.
#[derive(Debug)]
pub(super) struct Single {
    /// What is under way.
    pub(super) step: Operation,
    left: VecDeque<Operation>,
    done: Vec<Path>,
    /// The last refusal that was passed over.
    refused: Option<OperationError>,
    answer: Answer,
}

/// What comes after a step.
pub(super) enum After {
    /// The next one.
    Next(Box<Single>),
    /// The end.
    Done(Result<Answer, OperationError>),
}

impl Single {
    /// The operations that stand in for a composite one, the first of them under way; `None` for
    /// what is no composite operation.
    pub(super) fn of(operation: &Operation) -> Option<Box<Self>> {
        let nodes = |target: &Target| target.paths().to_vec().into_iter().map(Target::Node);
        let mut left: VecDeque<Operation> = match operation {
            Operation::Read(target @ Target::Composite(_)) => {
                nodes(target).map(Operation::Read).collect()
            }
            Operation::Observe(target @ Target::Composite(_), attributes) => nodes(target)
                .map(|node| Operation::Observe(node, attributes.clone()))
                .collect(),
            Operation::CancelObserve(target @ Target::Composite(_)) => {
                nodes(target).map(Operation::CancelObserve).collect()
            }
            Operation::WriteComposite(changes) => changes
                .chunk_by(is_of_one_array)
                .filter_map(change)
                .collect(),
            _ => return None,
        };
        Some(Box::new(Self {
            step: left.pop_front()?,
            left,
            done: Vec::new(),
            refused: None,
            answer: Answer {
                single: true,
                observing: true,
                ..Answer::default()
            },
        }))
    }

    /// Takes the result of the step that was under way.
    ///
    /// A node that cannot be read or observed is passed over, as a composite operation does it
    /// (LwM2M Core 1.1 §6.3.7). A write stops at the first failure.
    pub(super) fn after(mut self: Box<Self>, result: Result<Answer, OperationError>) -> After {
        let path = self.step.target().base();
        let is_write = matches!(self.step, Operation::Write { .. } | Operation::Delete(_));
        match result {
            Ok(answer) => {
                self.done.push(path);
                self.answer.code = answer.code;
                self.answer.observing &= answer.observing;
                self.answer.records.extend(answer.records);
                self.answer.problems.extend(answer.problems);
            }
            Err(error) if !is_write && is_of_the_node(&error) => self.refused = Some(error),
            Err(error) => {
                return After::Done(Err(OperationError::Partial {
                    done: self.done,
                    failed: path,
                    error: Box::new(error),
                }));
            }
        }
        match (self.left.pop_front(), self.refused.take()) {
            (Some(step), refused) => {
                (self.step, self.refused) = (step, refused);
                After::Next(self)
            }
            (None, Some(refused)) if self.done.is_empty() => After::Done(Err(refused)),
            (None, _) => After::Done(Ok(self.answer)),
        }
    }
}

/// The operation that stands in for changes of one resource. What is written to one instance of a
/// resource leaves the others, as in a Write-Composite.
fn change(changes: &[Change]) -> Option<Operation> {
    let first = changes.first()?;
    let record = |change: &Change| {
        Some(Record {
            path: change.path,
            value: change.value.clone()?,
            time: None,
        })
    };
    Some(match first.value {
        None => Operation::Delete(first.path),
        Some(_) => Operation::Write {
            path: first.path.truncate(3),
            records: changes.iter().filter_map(record).collect(),
            replace: first.path.level() < Level::ResourceInstance,
        },
    })
}

fn is_of_one_array(a: &Change, b: &Change) -> bool {
    let is_written =
        |change: &Change| change.value.is_some() && change.path.level() == Level::ResourceInstance;
    is_written(a) && is_written(b) && a.path.truncate(3) == b.path.truncate(3)
}

/// Whether a refusal is of this node, and says nothing about others.
fn is_of_the_node(error: &OperationError) -> bool {
    match error {
        OperationError::Response { code, .. } => code.class() == 4,
        OperationError::NotObserved(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coap::Code;
    use crate::lwm2m::Value;

    fn record(path: &str) -> Record {
        Record {
            path: path.parse().unwrap(),
            value: Value::Integer(1),
            time: None,
        }
    }

    fn refusal(code: Code) -> OperationError {
        OperationError::Response {
            code,
            diagnostic: String::new(),
        }
    }

    fn next(after: After) -> Box<Single> {
        match after {
            After::Next(single) => single,
            After::Done(result) => panic!("{result:?}"),
        }
    }

    fn done(after: After) -> Result<Answer, OperationError> {
        match after {
            After::Next(single) => panic!("{single:?}"),
            After::Done(result) => result,
        }
    }

    fn read() -> Box<Single> {
        let paths = [Path::resource(3, 0, 9), Path::resource(3, 0, 77)];
        Single::of(&Operation::Read(Target::composite(paths))).unwrap()
    }

    #[test]
    fn a_read_passes_over_what_is_not_there() {
        let value = || Answer {
            records: vec![record("/3/0/9")],
            ..Answer::default()
        };
        let single = next(read().after(Ok(value())));
        let answer = done(single.after(Err(refusal(Code::NOT_FOUND)))).unwrap();
        assert!(answer.single);
        assert_eq!(answer.records, value().records);
        // Where nothing is, the refusal is the answer.
        let single = next(read().after(Err(refusal(Code::NOT_FOUND))));
        let error = done(single.after(Err(refusal(Code::UNAUTHORIZED))));
        assert_eq!(error, Err(refusal(Code::UNAUTHORIZED)));
    }

    #[test]
    fn a_write_stops_at_the_first_failure_and_says_what_is_written() {
        let change = |path: &str| Change {
            path: path.parse().unwrap(),
            value: Some(Value::Integer(1)),
        };
        let changes = ["/1/0/1", "/9/0/3/0", "/9/0/3/1", "/3/0/13", "/1/0/2"].map(change);
        let single = Single::of(&Operation::WriteComposite(changes.to_vec())).unwrap();
        let single = next(single.after(Ok(Answer::default())));
        let Operation::Write {
            path,
            records,
            replace: false,
        } = &single.step
        else {
            panic!("{:?}", single.step)
        };
        assert_eq!((path, records.len()), (&Path::resource(9, 0, 3), 2));
        let single = next(single.after(Ok(Answer::default())));
        let error = done(single.after(Err(refusal(Code::METHOD_NOT_ALLOWED)))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "4.05 Method Not Allowed, at /3/0/13; the device has no composite operations, and \
             /1/0/1, /9/0/3 was done before"
        );
        assert_eq!(error.cause(), &refusal(Code::METHOD_NOT_ALLOWED));
    }
}
