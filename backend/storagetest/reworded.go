// SPDX-License-Identifier: MPL-2.0

package storagetest

import (
	"encoding/json"
	"strings"
)

// reworded replaces texts for people that earlier builds worded differently. The
// engine does not store these texts, so today's build answers with its own.
var reworded = strings.NewReplacer(
	"a new administrative credential was prepared", "a new root credential was prepared",
	"the former administrative credential is not yet ended at the registry", "the former root credential is not revoked at the registry yet",
)

// reword puts today's texts into the answers of an earlier build.
func (d *Dump) reword() {
	for _, answer := range d.Answers {
		for field, value := range answer.Data {
			if text, ok := value.(string); ok {
				answer.Data[field] = reworded.Replace(text)
			}
		}
	}
}

// addGracePeriod puts the grace_period, which earlier builds did not serve, into
// the answers of what they rotated: that of the role, or the shortest of a
// bundle's members.
func (d *Dump) addGracePeriod() {
	for path, answer := range d.Answers {
		name, serves := strings.CutPrefix(path, "creds/")
		if !serves || answer.Data["rotation_period"] == nil || answer.Data["grace_period"] != nil {
			continue
		}
		roles := []any{name}
		if members, bundle := d.Answers["roles/"+name].Data["members"].([]any); bundle {
			roles = members
		}
		var shortest json.Number
		for _, role := range roles {
			grace, shared := d.Answers["roles/"+role.(string)].Data["grace_period"].(json.Number)
			if shared && (shortest == "" || seconds(grace) < seconds(shortest)) {
				shortest = grace
			}
		}
		answer.Data["grace_period"] = shortest
	}
}

func seconds(n json.Number) int64 {
	count, err := n.Int64()
	if err != nil {
		panic(err) // the engine answers with integers
	}
	return count
}
