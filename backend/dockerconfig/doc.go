// SPDX-License-Identifier: MPL-2.0

// Package dockerconfig turns registry credentials into the Docker config JSON
// that Kubernetes calls a pull secret. It reads such JSON back, and knows what people
// paste in its place.
//
// It collects rules that no tool states in one place: which registry keys every
// tool matches ([ParseKey]), which user names and passwords every tool decodes
// ([ParseUsername], [ParsePassword]), and which bytes to write ([Config.JSON]). It
// does no input or output, and knows nothing of Vault.
//
// Errors and warnings are sentences for the person who wrote the input. They say
// what is wrong and what would be right. They never repeat a password or text that
// may contain one, nor a user name except those that stand for a kind of token, such
// as AWS.
package dockerconfig
