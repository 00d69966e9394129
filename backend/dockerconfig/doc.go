// SPDX-License-Identifier: MPL-2.0

// Package dockerconfig turns registry credentials into the Docker config JSON
// that Kubernetes calls a pull secret, and reads such JSON back.
//
// It holds the rules that no tool states in one place: which registry keys
// every reader matches ([ParseKey]), which user names and passwords every
// reader decodes ([ParseUsername], [ParsePassword]), and which bytes to write
// ([Config.JSON]). It is pure: no input or output, and nothing of Vault.
//
// Errors and warnings are sentences for the person who typed the input. They
// say what is wrong and what would be right, and never repeat a user name, a
// password or text that might contain one.
package dockerconfig
