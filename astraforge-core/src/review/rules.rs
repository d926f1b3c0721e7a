//! The rules of a review: what can be found in a diff without a model.
