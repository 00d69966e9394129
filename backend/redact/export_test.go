// SPDX-License-Identifier: MPL-2.0

package redact

var CommonTexts = append(commonTexts, "") // any text has the empty one
