//! The rules, each with the symptom made for real.
