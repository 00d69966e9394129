// SPDX-License-Identifier: MPL-2.0

package storagetest

import "strings"

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
