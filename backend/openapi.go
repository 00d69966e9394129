// SPDX-License-Identifier: MPL-2.0

package backend

import (
	"strings"

	"github.com/hashicorp/vault/sdk/framework"
	"github.com/hashicorp/vault/sdk/logical"
)

const schemaRefPrefix = "#/components/schemas/"

// completeOpenAPI replaces the references in the OpenAPI document of a help response by
// the schemas that they name. A reference is lost on the way from an external plugin
// to Vault's own document, and would leave each body as "schema: {}". It also says what
// is in a list that is a parameter, which the framework leaves out.
func completeOpenAPI(resp *logical.Response) {
	if resp == nil {
		return
	}
	doc, ok := resp.Data["openapi"].(*framework.OASDocument)
	if !ok {
		return
	}
	for _, item := range doc.Paths {
		for _, op := range []*framework.OASOperation{item.Get, item.Post, item.Patch, item.Delete} {
			if op == nil {
				continue
			}
			for _, parameter := range op.Parameters {
				if schema := parameter.Schema; schema != nil && schema.Type == "array" && schema.Items == nil {
					schema.Items = &framework.OASSchema{Type: "string"}
				}
			}
			if op.RequestBody != nil {
				op.RequestBody.Content = inlined(op.RequestBody.Content, doc.Components.Schemas)
			}
			for status, response := range op.Responses {
				// A copy, because the framework shares some responses.
				op.Responses[status] = &framework.OASResponse{Description: response.Description, Content: inlined(response.Content, doc.Components.Schemas)}
			}
		}
	}
	doc.Components.Schemas = map[string]*framework.OASSchema{}
}

func inlined(content framework.OASContent, schemas map[string]*framework.OASSchema) framework.OASContent {
	if content == nil {
		return nil
	}
	replaced := framework.OASContent{}
	for mediaType, object := range content {
		schema := object.Schema
		if schema != nil && schema.Ref != "" {
			schema = schemas[strings.TrimPrefix(schema.Ref, schemaRefPrefix)]
		}
		replaced[mediaType] = &framework.OASMediaTypeObject{Schema: schema}
	}
	return replaced
}
