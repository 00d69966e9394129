{{- define "regcred-node.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name }}{{ else }}{{ .Release.Name }}-{{ .Chart.Name }}{{ end }}
{{- end }}

{{- define "regcred-node.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "regcred-node.labels" -}}
{{ include "regcred-node.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "regcred-node.suffix" -}}
{{- with .Values.provider.instance }}-{{ . }}{{ end }}
{{- end }}

{{- define "regcred-node.image" -}}
{{- $repository := required "image.repository must name the client's image in your registry" .Values.image.repository -}}
{{- if .Values.image.digest }}{{ $repository }}@{{ .Values.image.digest }}{{ else }}{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* The files that are put onto a node. */}}
{{- define "regcred-node.files" -}}
{{- $suffix := include "regcred-node.suffix" . -}}
{{- $config := deepCopy .Values.config -}}
{{- if not $config.address }}{{ fail "config.address must be the address of Vault, such as https://vault.example.com:8200" }}{{ end -}}
{{- if .Values.vaultCA }}{{ $_ := set $config "caFile" (printf "%s/vault-ca%s.pem" .Values.settingsDir $suffix) }}{{ end -}}
{{- if not .Values.provider.matchImages }}{{ fail "provider.matchImages must name the registries that the provider is asked for, such as [ghcr.io]" }}{{ end -}}
kubelet{{ $suffix }}.yaml: |
{{ toYaml $config | indent 2 }}
{{- with .Values.vaultCA }}
vault-ca{{ $suffix }}.pem: |
{{ . | trim | indent 2 }}
{{- end }}
credential-provider.yaml: |
  apiVersion: kubelet.config.k8s.io/v1
  kind: CredentialProviderConfig
  providers:
    - name: regcred-credential-provider{{ $suffix }}
      apiVersion: credentialprovider.kubelet.k8s.io/v1
      matchImages:
        {{- toYaml .Values.provider.matchImages | nindent 8 }}
      defaultCacheDuration: 0s
      tokenAttributes:
        serviceAccountTokenAudience: {{ .Values.provider.audience | quote }}
        cacheType: {{ .Values.provider.cacheType }}
        requireServiceAccount: {{ .Values.provider.requireServiceAccount }}
        {{- with (.Values.config.role).annotation }}
        optionalServiceAccountAnnotationKeys:
          - {{ . | quote }}
        {{- end }}
      {{- with .Values.provider.env }}
      env:
        {{- range $name, $value := . }}
        - {name: {{ $name | quote }}, value: {{ $value | quote }}}
        {{- end }}
      {{- end }}
{{- end }}

{{/* A ConfigMap of these files and no other: pods of before an upgrade keep theirs, so
     that a change reaches the nodes as the rollout does, and a bad one stops it. */}}
{{- define "regcred-node.configMap" -}}
{{ include "regcred-node.fullname" . }}-{{ include "regcred-node.files" . | sha256sum | trunc 10 }}
{{- end }}

{{/* The folders of the node, as a JSON list: without those that are below another. */}}
{{- define "regcred-node.folders" -}}
{{- $all := list (.Values.kubelet.binDir | clean) (.Values.kubelet.configFile | clean | dir) (.Values.settingsDir | clean) | uniq -}}
{{- $top := list -}}
{{- range $one := $all }}
  {{- if lt (len (splitList "/" $one)) 3 }}{{ fail (printf "%s cannot be mounted into the pod: use a folder below it" $one) }}{{ end -}}
  {{- $below := false -}}
  {{- range $other := $all }}{{ if hasPrefix (printf "%s/" $other) $one }}{{ $below = true }}{{ end }}{{ end -}}
  {{- if not $below }}{{ $top = append $top $one }}{{ end -}}
{{- end -}}
{{ toJson $top }}
{{- end }}

{{- define "regcred-node.container" -}}
image: {{ include "regcred-node.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
terminationMessagePolicy: FallbackToLogsOnError
# Root, because only root may be able to change these files, and with none of root's
# capabilities.
securityContext:
  runAsUser: 0
  runAsGroup: 0
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
  {{- with .Values.seLinuxOptions }}
  seLinuxOptions:
    {{- toYaml . | nindent 4 }}
  {{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  - {name: files, mountPath: /files, readOnly: true}
  {{- range $i, $folder := include "regcred-node.folders" . | fromJsonArray }}
  - {name: node-{{ $i }}, mountPath: {{ $folder | quote }}}
  {{- end }}
args:
  - install
  - -from=/files
  - -bin-dir={{ .Values.kubelet.binDir | clean }}
  - -config={{ .Values.kubelet.configFile | clean }}
  - -to={{ .Values.settingsDir | clean }}
  {{- if .Values.kubelet.configMustExist }}
  - -must-exist
  {{- end }}
  {{- if .Values.remove }}
  - -remove
  {{- if .Values.deleteEmptyConfig }}
  - -delete-empty
  {{- end }}
  {{- end }}
{{- end }}
