# The reference counter and the TSC page are the same clock: each reading of the page lies between two of the counter.
# mode: long
# hyperv: yes
# timed: reads the TSC
# expect: 0x204001 0x1 0x0 0x99
.include "hyperv.inc"
# Reference time from the counter in RAX.
counter:
    movl $0x40000020, %ecx
    rdmsr
    shlq $32, %rdx
    orq %rdx, %rax
    ret
main:
    write_msr 0x40000021, tsc_page + 1
    report_msr 0x40000021
    report tsc_page
    movl $1000, %ebp
    xorl %edi, %edi
    # Slack of one unit: the page's scale is rounded down.
1:  call counter
    movq %rax, %rbx
    rdtsc
    shlq $32, %rdx
    orq %rdx, %rax
    mulq tsc_page + 8
    addq tsc_page + 16, %rdx
    movq %rdx, %rsi
    call counter
    incq %rax
    cmpq %rax, %rsi
    ja 2f
    incq %rsi
    cmpq %rbx, %rsi
    jae 3f
2:  incl %edi
3:  decl %ebp
    jnz 1b
    report %edi
    report $0x99
    finish
