// SPDX-License-Identifier: MPL-2.0

//go:build !linux

package tests

import "vault-plugin-secrets-regcred/backend/issuer/gitlab/gitlabtest"

// On other systems the tests do not find the plugin's process.
func (*planting) dieWhileMinting(*gitlabtest.Server) {}

func (*planting) lookAtProcess() {}
